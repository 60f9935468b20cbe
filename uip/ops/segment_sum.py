"""Sums of the rows of each segment, and the gather that is their adjoint.

    segment_sum(x)_n = sum_{m: index_m = n} x_m         (M, C) to (N, C)
    gather(x)_m = x_{index_m}                           (N, C) to (M, C)

On CUDA tensors both are deterministic: rows of a segment are added in their order (`uip.ops.cuda.segment_sum`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uip.ops.kernels import has_kernels


@dataclass(frozen=True)
class Segments:
    """Which rows belong to which segment."""

    index: Tensor
    """(M,) segment of each row."""
    number: int
    """N."""
    order: Tensor
    """(M,) rows sorted by segment; (0,) where they are sorted, or no kernel reads it."""
    offsets: Tensor
    """(N + 1,) first row of each segment, in `order`; (0,) where no kernel reads it."""

    def tensors(self) -> list[Tensor]:
        return [self.index, self.order, self.offsets]


def make_segments(index: Tensor, number: int, *, is_sorted: bool = False) -> Segments:
    """Segments 0 .. number - 1 of rows with `index` (M,) int64; sorts them once for all sums, without a
    synchronisation of the device."""
    none = index.new_empty(0)
    if not has_kernels(index):
        return Segments(index, number, none, none)
    ascending, order = (index, none) if is_sorted else torch.sort(index, stable=True)
    offsets = torch.searchsorted(ascending, torch.arange(number + 1, device=index.device))
    return Segments(index, number, order, offsets)


def segment_sum(x: Tensor, segments: Segments) -> Tensor:
    if not has_kernels(x):
        return x.new_zeros(segments.number, x.shape[1]).index_add(0, segments.index, x)
    from uip.ops.cuda import segment_sum as cuda

    return cuda.segment_sum(x, *segments.tensors())


def gather(x: Tensor, segments: Segments) -> Tensor:
    if not has_kernels(x):
        return x.index_select(0, segments.index)
    from uip.ops.cuda import segment_sum as cuda

    return cuda.segment_gather(x, *segments.tensors())
