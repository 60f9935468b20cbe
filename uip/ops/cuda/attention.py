"""All-to-all attention in kernels, with and without radial bias: first and second derivatives in linear memory.

Definition: `uip.ops.attention`, with its letters; B graphs, n shifts. Without radial bias `weight`, `positions` and
`strain` have no rows; without strain, `strain` has none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from uip.ops._triton.attention import forward_kernel, tangent_kernel
from uip.ops._triton.attention_gradient import columns_kernel, rows_kernel
from uip.ops.cuda.launch import can_launch, padded

BLOCK, BLOCK_SECOND, WARPS = 32, 16, 8
"""Atoms of a block; the same for second derivatives, which hold more numbers of a pair; warps of a program."""


@triton_op("uip_triton::attend", mutates_args={})
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    positions: Tensor,
    strain: Tensor,
    lists: list[Tensor],
    heads: int,
) -> tuple[Tensor, Tensor]:
    """out (N, H) and log-sum-exp (N, h) of q, k, v (N, H), weight (h, 32), positions (N, 3), strain (N, 3, 3).

    Args:
        lists: first and last + 1 atom of the graph of each atom, (2, N); graph of each atom (N,); lattice vectors
            (B, 3, 3), zero where not periodic, and their pseudoinverse; shifts that may shorten a vector (B, n, 3),
            zero where there are fewer; omega (32,).
    """
    q, k, v = (_rows(x) for x in (q, k, v))
    out, lse = q.new_empty(q.shape), _by_head(q, heads)
    if can_launch(q):
        sizes = (*_sizes(q, k, v, lists, heads), weight.shape[0] > 0, *_blocks(q, heads, BLOCK))
        wrap_triton(forward_kernel)[(triton.cdiv(q.shape[0], BLOCK), heads)](
            q, k, v, weight, positions, *lists, out, lse, *sizes, num_warps=WARPS
        )
    return out, lse


@triton_op("uip_triton::attend_backward", mutates_args={})
def attend_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    positions: Tensor,
    strain: Tensor,
    lists: list[Tensor],
    out: Tensor,
    lse: Tensor,
    heads: int,
    of_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first six arguments of `attend`; of `weight` only with `of_weight`."""
    q, k, v = (_rows(x) for x in (q, k, v))
    gradient, delta = gradient.contiguous(), _delta(gradient, out, lse)
    none = [gradient.new_empty(0)] * 5
    results = _results(q, weight, positions, strain, lse, BLOCK if of_weight else 0)
    if can_launch(q):
        flags = (weight.shape[0] > 0, strain.shape[0] > 0)
        given = (*none, gradient, q, k, v, weight, positions, *lists, lse, delta, delta, delta)
        sizes, blocks = _sizes(q, k, v, lists, heads), _blocks(q, heads, BLOCK)
        grid = (triton.cdiv(q.shape[0], BLOCK), heads)
        wrap_triton(rows_kernel)[grid](*given, *results[:4], *sizes, *flags, of_weight, False, *blocks, num_warps=WARPS)
        wrap_triton(columns_kernel)[grid](*given, *results[4:], *sizes, *flags, False, *blocks, num_warps=WARPS)
    return _gradients(results, weight, positions, strain)


@triton_op("uip_triton::attend_second", mutates_args={})
def attend_second(
    directions: list[Tensor],
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    positions: Tensor,
    strain: Tensor,
    lists: list[Tensor],
    out: Tensor,
    lse: Tensor,
    heads: int,
    of_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of <directions, gradients of q, k, v, positions and strain> with respect to `gradient` and the first
    six arguments of `attend`."""
    q, k, v = (_rows(x) for x in (q, k, v))
    gradient, delta = gradient.contiguous(), _delta(gradient, out, lse)
    moved = [x.contiguous() for x in directions]
    out_t, mu, delta_t = q.new_empty(q.shape), torch.empty_like(lse), torch.empty_like(lse)
    results = _results(q, weight, positions, strain, lse, BLOCK_SECOND if of_weight else 0)
    if can_launch(q):
        flags = (weight.shape[0] > 0, strain.shape[0] > 0)
        given = (*moved, gradient, q, k, v, weight, positions, *lists)
        sizes, blocks = _sizes(q, k, v, lists, heads), _blocks(q, heads, BLOCK_SECOND)
        grid, tangents = (triton.cdiv(q.shape[0], BLOCK_SECOND), heads), (out_t, mu, delta_t)
        wrap_triton(tangent_kernel)[grid](*given, out, lse, delta, *tangents, *sizes, *flags, *blocks, num_warps=WARPS)
        given = (*given, lse, delta, mu, delta_t)
        wrap_triton(rows_kernel)[grid](*given, *results[:4], *sizes, *flags, of_weight, True, *blocks, num_warps=WARPS)
        wrap_triton(columns_kernel)[grid](*given, *results[4:], *sizes, *flags, True, *blocks, num_warps=WARPS)
    return out_t, *_gradients(results, weight, positions, strain)


def _rows(x: Tensor) -> Tensor:
    """Rows may lie apart, as parts of a larger matrix; numbers of a row lie together."""
    return x if x.stride(1) == 1 else x.contiguous()


def _by_head(q: Tensor, heads: int) -> Tensor:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape[0], heads, dtype=dtype)


def _delta(gradient: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """<gradient, out> by head, (N, h)."""
    product = gradient.to(lse.dtype) * out.to(lse.dtype)
    return product.unflatten(1, (lse.shape[1], -1)).sum(2)


def _sizes(q: Tensor, k: Tensor, v: Tensor, lists: list[Tensor], heads: int) -> tuple[Any, ...]:
    """Arguments of all kernels behind their tensors."""
    atoms, channels = q.shape
    size = channels // heads
    strides = (q.stride(0), k.stride(0), v.stride(0))
    return (*strides, atoms, size, channels, lists[4].shape[1], 1.0 / math.sqrt(size))


def _blocks(q: Tensor, heads: int, size: int) -> tuple[int, int, int]:
    return size, size, padded(q.shape[1] // heads)


def _results(q: Tensor, weight: Tensor, positions: Tensor, strain: Tensor, lse: Tensor, block: int) -> list[Tensor]:
    """Room for gradients: of q; of positions as i, strain, weight by `block` atoms (0: none); of k, v; of positions as
    j."""
    atoms, heads = lse.shape
    blocks = triton.cdiv(atoms, block) if block else 0
    as_first, as_second = (lse.new_empty(positions.shape[0], heads, 3) for _ in range(2))
    of_strain, of_weights = lse.new_empty(strain.shape[0], heads, 9), lse.new_empty(blocks, *weight.shape)
    of_q, of_k, of_v = (q.new_empty(q.shape) for _ in range(3))
    return [of_q, as_first, of_strain, of_weights, of_k, of_v, as_second]


def _gradients(
    results: list[Tensor], weight: Tensor, positions: Tensor, strain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sums over heads and blocks, in the order of arguments."""
    of_q, as_first, of_strain, of_weights, of_k, of_v, as_second = results
    of_positions = (as_first + as_second).sum(1).to(positions.dtype)
    total = of_weights.sum(0).to(weight.dtype)
    return of_q, of_k, of_v, total, of_positions, of_strain.sum(1).view(strain.shape).to(strain.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, lists, ctx.heads = inputs
    ctx.save_for_backward(*tensors, *lists, *output)


def _backward(ctx: Any, gradient: Tensor, of_lse: Tensor) -> tuple[Any, ...]:
    *tensors, out, lse = ctx.saved_tensors
    tensors, lists = tensors[:6], tensors[6:]
    of_weight = ctx.needs_input_grad[3] and tensors[3].shape[0] > 0
    found = attend_backward(gradient, *tensors, lists, out, lse, ctx.heads, of_weight)
    return (*_where(found, ctx.needs_input_grad), [None] * len(lists), None)


def _where(found: tuple[Tensor, ...], needed: tuple[bool, ...]) -> list[Tensor | None]:
    return [value if need else None for value, need in zip(found, needed, strict=False)]


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, lists, out, lse, ctx.heads, _ = inputs
    ctx.save_for_backward(*tensors, *lists, out, lse)
    ctx.set_materialize_grads(False)


def _second(ctx: Any, *directions: Tensor | None) -> tuple[Any, ...]:
    if directions[3] is not None:
        raise RuntimeError(
            "the gradient of attention with respect to the weights of the radial bias has no further derivative on a "
            "GPU, but one was asked for; use `uip.ops.kernels.without_kernels`"
        )
    gradient, *tensors, out, lse = ctx.saved_tensors
    tensors, lists = tensors[:6], tensors[6:]
    given = [
        torch.zeros_like(x) if u is None else u
        for number, (u, x) in enumerate(zip(directions, tensors, strict=True))
        if number != 3
    ]
    of_weight = ctx.needs_input_grad[4] and tensors[3].shape[0] > 0
    found = attend_second(given, gradient, *tensors, lists, out, lse, ctx.heads, of_weight)
    return (*_where(found, ctx.needs_input_grad), [None] * len(lists), None, None, None, None)


torch.library.register_autograd("uip_triton::attend", _backward, setup_context=_save)
torch.library.register_autograd("uip_triton::attend_backward", _second, setup_context=_save_backward)
