"""Sums of the rows of each segment, in a fixed order and without atomics: one program for a segment and a block of
channels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def segment_sum_kernel(
    x,
    order,
    offsets,
    out,
    channels,
    ORDERED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[n] = sum of x[order[m]], or of x[m] where rows are ORDERED already, for offsets[n] <= m < offsets[n + 1]."""
    segment = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < channels
    start = tl.load(offsets + segment)
    end = tl.load(offsets + segment + 1)
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    for first in range(start, end, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        row = m if ORDERED else tl.load(order + m, mask=m < end, other=0)
        mask = (m < end)[:, None] & inside[None, :]
        value = tl.load(x + row[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        total += value.to(total.dtype)
    tl.store(out + segment * channels + channel, tl.sum(total, 0).to(out.dtype.element_ty), mask=inside)
