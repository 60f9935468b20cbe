"""Attention within rows of tokens in kernels, without padding: first and second derivatives.

Definition: `uip.nn.row_attention`. Letters: N rows, W slots of a row, T tokens, h heads, d channels of a head, H = h d.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from uip.ops._triton.row_attention import backward_kernel, forward_kernel, second_kernel
from uip.ops.cuda.launch import can_launch, padded

BLOCK_Q, WARPS = 16, 8
STAGES = 1
"""With more, blocks of queries are loaded ahead, which needs more shared memory than a GPU has."""


@triton_op("uip_triton::attend_rows", mutates_args={})
def attend_rows(q: Tensor, k: Tensor, v: Tensor, tokens: Tensor, bias: Tensor, heads: int, own: bool) -> Tensor:
    """Contexts of queries, both (T, H); keys and values (T, H).

    Args:
        own: only the first token of each row asks: queries and contexts (N, H).
        tokens: (N W,) token of each slot; the first of row n is n.
        bias: (N, W), added to logits; below -1e8: the slot is empty.
    """
    q, k, v = (_rows(x) for x in (q, k, v))
    out = q.new_empty(q.shape)
    if can_launch(q):
        wrap_triton(forward_kernel)[(bias.shape[0], heads)](
            *(q, k, v, tokens, bias.contiguous(), out),
            *_sizes(q, k, v, bias, heads, own),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return out


@triton_op("uip_triton::attend_rows_backward", mutates_args={})
def attend_rows_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor, bias: Tensor, heads: int, own: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values and `bias`."""
    q, k, v = (_rows(x) for x in (q, k, v))
    results = [x.new_empty(x.shape) for x in (q, k, v)]
    by_head = _by_head(bias, heads)
    if can_launch(q):
        wrap_triton(backward_kernel)[(bias.shape[0], heads)](
            *(gradient.contiguous(), q, k, v, tokens, bias.contiguous(), *results, by_head),
            *_sizes(q, k, v, bias, heads, own),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return results[0], results[1], results[2], by_head.sum(1).to(bias.dtype)


@triton_op("uip_triton::attend_rows_second", mutates_args={})
def attend_rows_second(
    u_q: Tensor,
    u_k: Tensor,
    u_v: Tensor,
    u_bias: Tensor,
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: Tensor,
    bias: Tensor,
    heads: int,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of <u, gradients> with respect to `gradient`, queries, keys, values and `bias`."""
    q, k, v = (_rows(x) for x in (q, k, v))
    directions = [x.contiguous() for x in (u_q, u_k, u_v, u_bias)]
    results = [x.new_empty(x.shape) for x in (q, q, k, v)]
    by_head = _by_head(bias, heads)
    if can_launch(q):
        wrap_triton(second_kernel)[(bias.shape[0], heads)](
            *(*directions, gradient.contiguous(), q, k, v, tokens, bias.contiguous(), *results, by_head),
            *_sizes(q, k, v, bias, heads, own),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return results[0], results[1], results[2], results[3], by_head.sum(1).to(bias.dtype)


def _rows(x: Tensor) -> Tensor:
    """Rows may lie apart, as parts of a larger matrix; numbers of a row lie together."""
    return x if x.stride(1) == 1 else x.contiguous()


def _by_head(bias: Tensor, heads: int) -> Tensor:
    """Room for the gradient of biases from each head, in at least float32."""
    dtype = torch.float64 if bias.dtype == torch.float64 else torch.float32
    return bias.new_empty(bias.shape[0], heads, bias.shape[1], dtype=dtype)


def _sizes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int, own: bool) -> tuple[Any, ...]:
    """Arguments of the kernels behind the tensors."""
    channels, width = q.shape[1], bias.shape[1]
    size = channels // heads
    strides = (q.stride(0), k.stride(0), v.stride(0))
    return (*strides, width, size, channels, 1.0 / math.sqrt(size), not own, BLOCK_Q, padded(width), padded(size))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heads, ctx.own = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    g_q, g_k, g_v, g_bias = attend_rows_backward(gradient, *ctx.saved_tensors, ctx.heads, ctx.own)
    return g_q, g_k, g_v, None, g_bias, None, None


def _second(ctx: Any, *directions: Tensor) -> tuple[Any, ...]:
    found = attend_rows_second(*directions, *ctx.saved_tensors, ctx.heads, ctx.own)
    return (*found[:4], None, found[4], None, None)


torch.library.register_autograd("uip_triton::attend_rows", _backward, setup_context=_save)
torch.library.register_autograd("uip_triton::attend_rows_backward", _second, setup_context=_save)
