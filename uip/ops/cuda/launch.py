"""What the launches of all kernels share."""

from __future__ import annotations

import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def can_launch(x: Tensor) -> bool:
    """False for tensors without values in triton's interpreter, which can compute nothing from them."""
    return not (triton.knobs.runtime.interpret and isinstance(x, FakeTensor))


def padded(size: int) -> int:
    """The next power of 2, at least 16: sizes of blocks."""
    power: int = triton.next_power_of_2(size)
    return max(16, power)
