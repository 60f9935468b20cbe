"""The gated message of CHGNet in kernels: first and second derivatives, with respect to weights too.

Definition: `GatedMLP.message` in `uip.nn.mlp`. Letters: M messages, C channels. Weights are packed: `matrices`
(2, C, C) of core and gate, or (0, C, C) without a second layer; `vectors` (2, 3, C): bias, scale and shift of both.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from uip.ops._triton.gated_message import backward_kernel, forward_kernel, second_kernel
from uip.ops.cuda.launch import can_launch, padded
from uip.ops.cuda.segment_sum import segment_sum

BLOCK_M, WARPS = 16, 8


@triton_op("uip_triton::gated_message", mutates_args={})
def gated_message(
    first: Tensor,
    second: Tensor,
    each: Tensor,
    lists: list[Tensor],
    matrices: Tensor,
    vectors: Tensor,
    norm: bool,
) -> Tensor:
    """(M, C) from `first`, `second` (rows, 2 C), `each` (M, 2 C), and `lists`: the tensors of the `Segments` of rows
    of `first`, then of `second`."""
    count, channels = each.shape[0], each.shape[1] // 2
    out = each.new_empty(count, channels)
    if can_launch(each):
        inputs = [x.contiguous() for x in (first, second, each, lists[0], lists[3], matrices, vectors)]
        sizes = (count, channels, matrices.shape[0] > 0, norm, BLOCK_M, padded(channels))
        wrap_triton(forward_kernel)[(triton.cdiv(count, BLOCK_M),)](*inputs, out, *sizes, num_warps=WARPS)
    return out


@triton_op("uip_triton::gated_message_backward", mutates_args={})
def gated_message_backward(
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    each: Tensor,
    lists: list[Tensor],
    matrices: Tensor,
    vectors: Tensor,
    norm: bool,
    weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (M, 2 C), `matrices` and `vectors`; the last two of no rows without `weights`."""
    count, channels = each.shape[0], each.shape[1] // 2
    g_total, sums = each.new_empty(each.shape), _sums(each, weights)
    inner, hidden = (_kept(each, matrices, weights) for _ in range(2))
    if can_launch(each):
        inputs = [x.contiguous() for x in (gradient, first, second, each, lists[0], lists[3], matrices, vectors)]
        sizes = (count, channels, matrices.shape[0] > 0, norm, weights, BLOCK_M, padded(channels))
        outputs = (g_total, inner, hidden, sums)
        wrap_triton(backward_kernel)[(triton.cdiv(count, BLOCK_M),)](*inputs, *outputs, *sizes, num_warps=WARPS)
    return g_total, _product(inner, hidden, matrices), sums.sum(0).to(each.dtype)


@triton_op("uip_triton::gated_message_second", mutates_args={})
def gated_message_second(
    direction: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    each: Tensor,
    lists: list[Tensor],
    matrices: Tensor,
    vectors: Tensor,
    norm: bool,
    weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of <direction, gradient of z> with respect to `gradient` (M, C), z (M, 2 C), `matrices`, `vectors`."""
    count, channels = each.shape[0], each.shape[1] // 2
    tangent, g_total, sums = each.new_empty(count, channels), each.new_empty(each.shape), _sums(each, weights)
    inner, hidden, inner_tangent, hidden_tangent = kept = [_kept(each, matrices, weights) for _ in range(4)]
    if can_launch(each):
        given = (direction, gradient, first, second, each, lists[0], lists[3], matrices, vectors)
        inputs = [x.contiguous() for x in given]
        sizes = (count, channels, matrices.shape[0] > 0, norm, weights, BLOCK_M, padded(channels))
        outputs = (tangent, g_total, *kept, sums)
        wrap_triton(second_kernel)[(triton.cdiv(count, BLOCK_M),)](*inputs, *outputs, *sizes, num_warps=WARPS)
    g_matrices = _product(inner_tangent, hidden, matrices) + _product(inner, hidden_tangent, matrices)
    return tangent, g_total, g_matrices, sums.sum(0).to(each.dtype)


def _sums(each: Tensor, weights: bool) -> Tensor:
    """Room for the gradients of vectors, summed over each tile in at least float32."""
    dtype = torch.float64 if each.dtype == torch.float64 else torch.float32
    return each.new_empty(triton.cdiv(each.shape[0], BLOCK_M) if weights else 0, 2, 3, each.shape[1] // 2, dtype=dtype)


def _kept(each: Tensor, matrices: Tensor, weights: bool) -> Tensor:
    """Room for a factor of the gradient of `matrices`."""
    return each.new_empty(each.shape[0] if weights and matrices.shape[0] else 0, each.shape[1])


def _product(inner: Tensor, hidden: Tensor, matrices: Tensor) -> Tensor:
    """(2, C, C): sums over messages of gradients of a times silu(z)."""
    if not matrices.shape[0]:
        return torch.empty_like(matrices)
    gradients, inputs = (x.unflatten(1, (2, -1)).transpose(0, 1) for x in (inner, hidden))
    return gradients.mT @ inputs


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, each, lists, matrices, vectors, ctx.norm = inputs
    ctx.save_for_backward(first, second, each, matrices, vectors, *lists)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    first, second, each, matrices, vectors, *lists = ctx.saved_tensors
    weights = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
    call = (first, second, each, lists, matrices, vectors, ctx.norm, weights)
    g_total, g_matrices, g_vectors = gated_message_backward(gradient, *call)
    return (*_of_inputs(g_total, lists), *_of_weights(g_matrices, g_vectors, weights), None)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gradient, first, second, each, lists, matrices, vectors, ctx.norm, _ = inputs
    ctx.save_for_backward(gradient, first, second, each, matrices, vectors, *lists)
    ctx.set_materialize_grads(False)


def _second(ctx: Any, direction: Tensor | None, of_matrices: Tensor | None, of_vectors: Tensor | None) -> Any:
    if of_matrices is not None or of_vectors is not None:
        raise RuntimeError(
            "gradients of a gated message with respect to weights have no further derivative on a GPU, but one was "
            "asked for; use `uip.ops.kernels.without_kernels`"
        )
    assert direction is not None
    gradient, first, second, each, matrices, vectors, *lists = ctx.saved_tensors
    weights = ctx.needs_input_grad[5] or ctx.needs_input_grad[6]
    call = (gradient, first, second, each, lists, matrices, vectors, ctx.norm, weights)
    tangent, g_total, g_matrices, g_vectors = gated_message_second(direction, *call)
    return (tangent, *_of_inputs(g_total, lists), *_of_weights(g_matrices, g_vectors, weights), None, None)


def _of_inputs(g_total: Tensor, lists: list[Tensor]) -> tuple[Any, ...]:
    """Gradients of the arguments `first` to `lists`, from that of z."""
    return segment_sum(g_total, *lists[:3]), segment_sum(g_total, *lists[3:]), g_total, [None] * len(lists)


def _of_weights(g_matrices: Tensor, g_vectors: Tensor, weights: bool) -> tuple[Tensor | None, Tensor | None]:
    return (g_matrices, g_vectors) if weights else (None, None)


torch.library.register_autograd("uip_triton::gated_message", _backward, setup_context=_save)
torch.library.register_autograd("uip_triton::gated_message_backward", _second, setup_context=_save_backward)
