"""Products of matrices in the precision of the weights."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""The interpreter of triton 3.9 multiplies the bits of bfloat16 numbers as integers."""


@triton.jit
def product(a, b, like, PRECISION: tl.constexpr = "tf32x3"):
    """a b in the precision of `like`, with sums in at least float32; float32 as three products of TF32 numbers, which
    lose 2e-7 of a product."""
    a = a.to(like.dtype)
    b = b.to(like.dtype)
    if INTERPRETED and like.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def plain_product(a, b, like):
    """`product` that splits no float32 numbers: slower, but both halves of large matrices need no shared memory."""
    return product(a, b, like, "ieee")
