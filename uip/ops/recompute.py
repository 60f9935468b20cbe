"""Activation checkpointing (gradient checkpointing) for functions that are differentiated once or twice.

Training on forces differentiates twice and stores the intermediates of all layers for this, which is most of its
memory. Here a layer y = f(x, w) stores x only. With g = dL/dy, f' the derivative that maps g to dL/d(x, w):

    forward             y                       intermediates are not stored
    backward            f'(x, w) g              f is recomputed
    double backward     d[f'(x, w) g]           both are recomputed

The results are those of the same operations, bit for bit. It takes about a third more time and several times less
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

Function = Callable[..., Tensor]


def recomputed(function: Function, *arguments: Tensor, weights: Iterable[Tensor] = ()) -> Tensor:
    """`function(*arguments)`, one tensor; only the arguments are stored for the backward pass.

    It has first and second derivatives with respect to the arguments and weights that require gradients.

    Args:
        function: a deterministic function of its arguments and weights, without side effects.
        weights: other tensors that it reads and that may require gradients; of a module: its parameters.

    Raises:
        RuntimeError: a third derivative is requested.
    """
    if isinstance(function, nn.Module):
        weights = function.parameters()
    moving = [weight for weight in weights if weight.requires_grad]
    return cast(Tensor, _Value.apply(function, len(arguments), *arguments, *moving))


@dataclass(frozen=True)
class _Call:
    """A function, and which of its tensors (arguments, then weights) require gradients."""

    function: Function
    num_arguments: int
    wanted: tuple[bool, ...]

    def leaves(self, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        """Detached arguments; weights unchanged, because the function reads them directly."""
        arguments, weights = tensors[: self.num_arguments], tensors[self.num_arguments :]
        wanted = zip(arguments, self.wanted, strict=False)
        return [*(argument.detach().requires_grad_(want) for argument, want in wanted), *weights]

    def gradient(self, leaves: list[Tensor], grad: Tensor, needed: tuple[bool, ...], *, create_graph: bool) -> Any:
        """f' grad with respect to the `needed` leaves."""
        with torch.enable_grad():
            value = self.function(*leaves[: self.num_arguments])
            sources = select(leaves, needed)
            return torch.autograd.grad(value, sources, grad, create_graph=create_graph, materialize_grads=True)


def select(values: Iterable[Any], wanted: Iterable[bool]) -> list[Any]:
    return [value for value, want in zip(values, wanted, strict=True) if want]


def scatter(values: Iterable[Any], wanted: Iterable[bool]) -> tuple[Any, ...]:
    """The inverse of `select`; None for values that are not wanted."""
    rest = iter(values)
    return tuple(next(rest) if want else None for want in wanted)


class _Value(torch.autograd.Function):
    """y = f(tensors)."""

    @staticmethod
    def forward(ctx: Any, function: Function, num_arguments: int, *tensors: Tensor) -> Tensor:
        ctx.call = _Call(function, num_arguments, tuple(ctx.needs_input_grad[2:]))
        ctx.save_for_backward(*tensors)
        return function(*tensors[:num_arguments])  # autograd does not record in here

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        found = _Gradient.apply(ctx.call, grads[0], *ctx.saved_tensors)
        return (None, None, *scatter(found, ctx.call.wanted))


class _Gradient(torch.autograd.Function):
    """f'(tensors) grad, for the tensors that require gradients."""

    @staticmethod
    def forward(ctx: Any, call: _Call, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(grad, *tensors)
        ctx.set_materialize_grads(False)
        return cast(tuple[Tensor, ...], call.gradient(call.leaves(tensors), grad, call.wanted, create_graph=False))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Only for the outputs that were used: a loss on forces does not use the gradients of weights."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a recomputed function must be differentiated at most twice, but its second derivative was asked for "
                "with `create_graph=True`; differentiate the function itself"
            )
        call, (grad, *tensors) = ctx.call, ctx.saved_tensors
        read = tuple(value is not None for value in scatter(grads, call.wanted))
        grad, leaves = grad.detach().requires_grad_(), call.leaves(tuple(tensors))
        first = call.gradient(leaves, grad, read, create_graph=True) if any(read) else ()
        others = [other for other in grads if other is not None]
        used = [value.requires_grad for value in first]  # false where y does not depend on that tensor
        if not any(used):
            return (None,) * (2 + len(tensors))
        sources = [grad, *select(leaves, call.wanted)]
        found = torch.autograd.grad(select(first, used), sources, select(others, used), materialize_grads=True)
        return (None, found[0], *scatter(found[1:], call.wanted))
