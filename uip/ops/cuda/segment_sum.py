"""Sums over segments and their adjoint, which are each other's derivative: differentiable any number of times."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from uip.ops._triton.segment_sum import segment_sum_kernel
from uip.ops.cuda.launch import can_launch

BLOCK_M, BLOCK_C, WARPS = 16, 64, 4


@triton_op("uip_triton::segment_sum", mutates_args={})
def segment_sum(x: Tensor, index: Tensor, order: Tensor, offsets: Tensor) -> Tensor:
    """(M, C) to (N, C); arguments as the fields of `uip.ops.segment_sum.Segments`."""
    x = x.contiguous()
    channels = x.shape[1]
    out = x.new_empty(offsets.shape[0] - 1, channels)
    grid = (out.shape[0], triton.cdiv(channels, BLOCK_C))
    if can_launch(x):
        ordered = order.shape[0] == 0
        sizes = (channels, ordered, BLOCK_M, BLOCK_C)
        wrap_triton(segment_sum_kernel)[grid](x, order, offsets, out, *sizes, num_warps=WARPS)
    return out


@triton_op("uip_triton::segment_gather", mutates_args={})
def segment_gather(x: Tensor, index: Tensor, order: Tensor, offsets: Tensor) -> Tensor:
    """(N, C) to (M, C): x[index]."""
    return x.index_select(0, index)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return segment_gather(grad, *ctx.saved_tensors), None, None, None


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return segment_sum(grad, *ctx.saved_tensors), None, None, None


torch.library.register_autograd("uip_triton::segment_sum", _sum_backward, setup_context=_save)
torch.library.register_autograd("uip_triton::segment_gather", _gather_backward, setup_context=_save)
