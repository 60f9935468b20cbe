"""Ops that launch Triton kernels (`uip.ops._triton`), with their derivatives; definitions are in `uip.ops`, `uip.nn`.

They are `torch.library.triton_op`s: `torch.compile` and AOTInductor see the kernels and store their binaries in the
compiled program. Each derivative is an op of its own.
"""
