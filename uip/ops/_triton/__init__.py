"""Triton kernels, and nothing else: each file is named as the op in `uip.ops.cuda` that launches its kernels.

They are imported only where triton is installed and used; importing `uip` does not need it.
"""
