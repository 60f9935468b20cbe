"""A module that keeps its inputs and computes the rest again when it is differentiated, once or twice.

Training on forces differentiates twice, and keeps for that every intermediate of every layer: it is most of its
memory. Here a layer y = f(x, w) keeps x alone. With g = dL/dy, f' the derivative that maps g to dL/d(x, w):

    forward     y                       computed and forgotten
    backward    f'(x, w) g              f computed again
    twice       d[f'(x, w) g]           both computed again

Exact, to the last digit of the same operations; about a third more time for several times less memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

Function = Callable[..., Tensor]


def recomputed(module: nn.Module, *arguments: Tensor) -> Tensor:
    """`module(*arguments)`, one tensor, of which nothing but the arguments is kept for derivatives.

    The module must be a function of its parameters and arguments: nothing random, nothing counted.
    """
    names, weights = zip(*module.named_parameters(), strict=True)
    real = [k for k, argument in enumerate(arguments) if argument.is_floating_point()]
    rest = {k: argument for k, argument in enumerate(arguments) if k not in real}

    def function(*tensors: Tensor) -> Tensor:
        values = {**rest, **dict(zip(real, tensors[len(names) :], strict=True))}
        state = dict(zip(names, tensors, strict=False))
        result: Tensor = functional_call(module, state, tuple(values[k] for k in range(len(values))))
        return result

    return _Value.apply(function, *weights, *(arguments[k] for k in real))


class _Value(torch.autograd.Function):
    """y = f(tensors)."""

    @staticmethod
    def forward(ctx: Any, function: Function, *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)  # autograd does not look in here

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (None, *_Gradient.apply(ctx.function, grads[0], *ctx.saved_tensors))


class _Gradient(torch.autograd.Function):
    """f'(tensors) grad."""

    @staticmethod
    def forward(ctx: Any, function: Function, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(grad, *tensors)
        leaves = _leaves(tensors)
        with torch.enable_grad():
            return torch.autograd.grad(function(*leaves), leaves, grad, materialize_grads=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        leaves = _leaves(ctx.saved_tensors)
        with torch.enable_grad():
            grad, *tensors = leaves
            first = torch.autograd.grad(
                ctx.function(*tensors), tensors, grad, create_graph=True, materialize_grads=True
            )
            used = [(value, other) for value, other in zip(first, grads, strict=True) if value.requires_grad]
            values, others = zip(*used, strict=True)
            return (None, *torch.autograd.grad(values, leaves, others, materialize_grads=True))


def _leaves(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


def recomputed_once(function: Function, *tensors: Tensor) -> Tensor:
    """`function(*tensors)`, one tensor, of which nothing but `tensors` is kept; with first derivatives only.

    Unlike `recomputed` it differentiates with respect to the tensors that ask for it, not to weights: for inference.
    """
    return cast(Tensor, _Once.apply(function, *tensors))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        wanted = ctx.needs_input_grad[1:]
        leaves = [x.detach().requires_grad_(want) for x, want in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            result = ctx.function(*leaves)
        sources = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(result, sources, grad, materialize_grads=True))
        return (None, *(next(found) if want else None for want in wanted))
