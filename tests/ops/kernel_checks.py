"""Kernels against their plain twins in float64: results, gradients, second gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from uip.ops.kernels import kernels_on_cpu

Function = Callable[..., Tensor]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}
"""Of results and gradients, relative to the largest number."""


@contextmanager
def nan_filled() -> Iterator[None]:
    """New memory is NaN, so that what no kernel writes is noticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def values(function: Function, tensors: list[Tensor], weights: list[Tensor], order: int) -> list[Tensor]:
    """Of y = function(tensors): y; gradients of <w, y>; and of order 2 those of a sum of their squares. Gradients with
    respect to tensors that require them; the squares are of all `weights[1:]` has a number for."""
    leaves = [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]
    wanted = [x for x in leaves if x.requires_grad]
    y = function(*leaves)
    results = [y]
    if order and wanted:
        w = weights[0].to(y.dtype).clone().requires_grad_()
        geometry = wanted[: len(weights) - 1]
        if order == 1:
            return [y, *torch.autograd.grad(y, wanted, w)]
        first = torch.autograd.grad(y, geometry, w, create_graph=True)
        directions = (u.to(g.dtype) for g, u in zip(first, weights[1:], strict=True))
        loss = sum((g * u).sum() for g, u in zip(first, directions, strict=True))
        results = [*torch.autograd.grad(loss, [w, *wanted], allow_unused=True, materialize_grads=True)]
    return results


def assert_same(function: Function, plain: Function, tensors: list[Tensor], weights: list[Tensor], order: int) -> None:
    """`function` with kernels equals `plain` in float64 with the same numbers."""
    dtype = tensors[0].dtype
    exact = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in tensors]
    expected = values(plain, exact, [w.to(dtype).double() for w in weights], order)
    with kernels_on_cpu(), nan_filled():
        got = values(function, tensors, weights, order)
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.dtype == dtype
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        close = (a.double() - b).abs() <= TOLERANCE[dtype] * scale
        assert bool(close.all()), f"result {number} of order {order}: off by {(a.double() - b).abs().max() / scale}"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
