"""Gated messages by Triton kernels, in the interpreter, against the modules that define them in float64."""

from __future__ import annotations

from copy import deepcopy

import pytest
import systems
import torch
from conftest import SMALL, random_chgnet
from kernel_checks import assert_same, nan_filled, random
from torch import Tensor
from torch.func import functional_call

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.models.chgnet import CHGNetConfig
from uip.models.readout import evaluate
from uip.nn.mlp import GatedMLP
from uip.ops.kernels import kernels_on_cpu
from uip.ops.segment_sum import make_segments

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.9.0")

ROW, COLUMN = torch.tensor([0] * 9 + [2] * 9), torch.arange(18) * 7 % 5
"""18 messages, more than a block; the second row and the last column have none."""
CHANNELS = 11


def make_mlp(*, hidden: bool, norm: bool) -> GatedMLP:
    torch.manual_seed(0)
    mlp = GatedMLP(3, CHANNELS, hidden=hidden, norm=norm).double()
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_()
            parameter.mul_(0.5)
    return mlp


def check(mlp: GatedMLP, dtype: torch.dtype, order: int, count: int = 18) -> None:
    weights = {name: value for name, value in mlp.named_parameters() if not name.startswith("first")}
    shapes = ((4, 2 * CHANNELS), (6, 2 * CHANNELS), (count, 2 * CHANNELS))
    inputs = [random(*shape, seed=k).to(dtype) for k, shape in enumerate(shapes)]
    tensors = [x.detach().requires_grad_() for x in (*inputs, *(value.to(dtype) for value in weights.values()))]

    def message(first: Tensor, second: Tensor, each: Tensor, *values: Tensor) -> Tensor:
        rows = make_segments(ROW[:count], 4, is_sorted=True), make_segments(COLUMN[:count], 6)
        bound = deepcopy(mlp).to(dtype=each.dtype)
        holder = Message(bound)
        named = {f"mlp.{name}": value for name, value in zip(weights, values, strict=True)}
        return functional_call(holder, named, (first, second, each, *rows))

    directions = [random(*x.shape, seed=10 + k) for k, x in enumerate(inputs)]
    assert_same(message, message, tensors, [random(count, CHANNELS, seed=9), *directions], order)


class Message(torch.nn.Module):
    """`GatedMLP.message` as the call of a module, for `functional_call`."""

    def __init__(self, mlp: GatedMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.mlp.message(*arguments)


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives(order: int) -> None:
    check(make_mlp(hidden=True, norm=True), torch.float64, order)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("hidden", "norm"), [(True, False), (False, True), (False, False)])
def test_other_forms(hidden: bool, norm: bool, order: int) -> None:
    check(make_mlp(hidden=hidden, norm=norm), torch.float64, order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_precisions(dtype: torch.dtype) -> None:
    check(make_mlp(hidden=True, norm=True), dtype, 2 if dtype == torch.float32 else 1)


@pytest.mark.slow
def test_training_of_a_model() -> None:
    """Energies, forces, and the gradients of a loss on both."""
    model = random_chgnet(CHGNetConfig(**{**SMALL.__dict__, "channels": 8})).requires_grad_(True).train()
    atoms = systems.water()
    graph = build_graph(check_structure(atoms.numbers, atoms.positions), 6.0, 3.0).to(dtype=torch.float64)

    def results() -> list[Tensor]:
        outputs = evaluate(model, graph, training=True)
        loss = outputs.energy.sum() + outputs.forces.square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return [outputs.energy, outputs.forces, *(g for g in gradients if g is not None)]

    expected = results()
    for model.recompute in (False, True):
        with kernels_on_cpu(), nan_filled():
            got = results()
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_third_derivatives_are_refused() -> None:
    mlp, x = make_mlp(hidden=True, norm=True), random(1, 2 * CHANNELS).requires_grad_()
    rows = make_segments(torch.tensor([0]), 1)
    with kernels_on_cpu():
        rows = make_segments(torch.tensor([0]), 1)
        y = mlp.message(x, x, x, rows, rows).square().sum()
        (g,) = torch.autograd.grad(y, mlp.core.weight, create_graph=True)
        with pytest.raises(RuntimeError, match="with respect to weights have no further derivative on a GPU"):
            torch.autograd.grad(g.sum(), x)


def test_no_messages() -> None:
    check(make_mlp(hidden=True, norm=True), torch.float64, 1, count=0)
