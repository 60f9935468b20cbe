"""Whether Triton kernels compute an op: on CUDA tensors, where triton is installed."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_on_cpu = False
_allowed = True


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def has_kernels(x: Tensor) -> bool:
    """Whether ops on `x` launch Triton kernels; otherwise they are operations of torch."""
    return _allowed and (x.is_cuda or _on_cpu) and _is_installed()


@contextmanager
def without_kernels() -> Iterator[None]:
    """Within the context, ops are operations of torch on any device: TorchScript cannot store kernels."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


@contextmanager
def kernels_on_cpu() -> Iterator[None]:
    """Within the context, kernels also compute ops on CPU tensors, in triton's interpreter. It is slow, for tests.

    Raises:
        RuntimeError: triton is missing or was not told to interpret.
    """
    global _on_cpu
    if not _is_installed():
        raise RuntimeError("triton must be installed to run its kernels, but is not; run 'pip install triton==3.9.0'")
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "kernels run on a CPU only in triton's interpreter, but TRITON_INTERPRET is "
            f"{os.environ.get('TRITON_INTERPRET')!r}; set TRITON_INTERPRET=1 before triton is imported"
        )
    before, _on_cpu = _on_cpu, True
    try:
        yield
    finally:
        _on_cpu = before
