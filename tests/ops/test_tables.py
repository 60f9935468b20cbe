"""Tables of radial and angular functions against the functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from uip.nn.basis import AngularBasis, RadialBasis
from uip.nn.fused import AngleMessage, EdgeMessage, RadialLinear, angle_lists, edge_lists
from uip.nn.mlp import GatedMLP
from uip.nn.table import Table
from uip.parallel.library import load_library

load_library()


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, rtol=0.0, atol=tolerance * max(1.0, expected.abs().max().item()))


def test_a_table_is_its_function() -> None:
    table = Table(lambda x: torch.stack([torch.sin(9.0 * x), torch.exp(-x)], dim=1), 2.0, 9.0)
    x = torch.arange(table.rows.shape[0], dtype=torch.float64) / table.per_length
    assert x[-1] >= 2.0
    r = torch.rand(100, dtype=torch.float32)
    assert torch.equal((r * table.per_length).double(), r.double() * table.per_length)  # no rounding
    assert_close(table.rows[1:, 0, 0], torch.sin(9.0 * x[1:]), 1e-14)
    assert_close(table.rows[:-1, 1], table.rows[1:, 0] - table.rows[:-1, 0], 1e-15)
    assert_close(table.rows[1:, 2, 0], 9.0 * torch.cos(9.0 * x[1:]) / table.per_length, 1e-14)
    assert_close(table.rows[1:, 3, 1], torch.exp(-x[1:]) / table.per_length**2, 1e-14)


def edge_call(distance: Tensor, *, tabulated: bool, norm: bool = True) -> Tensor:
    """Of two atoms with edges of these lengths, to each other and to themselves."""
    torch.manual_seed(0)
    with torch.no_grad():
        mlp, basis = GatedMLP(3, 16, hidden=True, norm=norm).double(), RadialBasis(31, 6.0, 8).double()
        embedding, factor = torch.randn(2, 16, 31, dtype=torch.float64)
        message = EdgeMessage(mlp, basis, embedding, factor, tabulated=tabulated)
        products = torch.randn(2, 2, 32, dtype=torch.float64)
    count = distance.shape[0]
    index = torch.stack([torch.arange(count) * 2 // count, torch.arange(count) % 2])
    lists = edge_lists(index, torch.zeros(0, dtype=torch.int64), torch.zeros(2), torch.zeros(2))
    x, scale = message.inputs(distance)
    result: Tensor = message(x, scale, products[0], products[1], products.new_zeros(0, 32), lists)
    return result


@pytest.mark.parametrize("norm", [True, False])
def test_tables_of_distances_are_the_radial_functions(norm: bool) -> None:
    distance = torch.linspace(0.2, 6.0, 301, dtype=torch.float64).requires_grad_()
    results = [edge_call(distance, tabulated=tabulated, norm=norm) for tabulated in (False, True)]
    assert_close(results[1], results[0], 3e-7)
    gradients = [torch.autograd.grad(y.sin().sum(), distance)[0] for y in results]
    assert_close(gradients[1], gradients[0], 3e-6)


@pytest.mark.parametrize("hidden", [True, False])
def test_tables_of_angles_are_the_angular_functions(hidden: bool) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        mlp, basis = GatedMLP(4, 16, hidden=hidden, norm=True).double(), AngularBasis(31).double()
        embedding, e, v, factor = (
            torch.randn(n, m, dtype=torch.float64) for n, m in ((16, 31), (8, 16), (2, 16), (8, 16))
        )
        plain, read = AngleMessage(mlp), AngleMessage(mlp, (basis, embedding))
    bond_centre = torch.tensor([0] * 4 + [1] * 4)
    pairs = [(a, b) for a in range(8) for b in range(8) if a != b and a // 4 == b // 4]
    lists = angle_lists(torch.tensor(pairs).T, bond_centre, torch.zeros(2))
    theta = torch.linspace(0.0, math.pi, len(pairs), dtype=torch.float64).requires_grad_()
    factor = factor if hidden else factor[:0, 0]
    results = [plain(e, basis.of_angle(theta) @ embedding.T, v, factor, lists), read(e, theta, v, factor, lists)]
    assert_close(results[1], results[0], 3e-7)
    gradients = [torch.autograd.grad(y.sin().sum(), theta)[0] for y in results]
    assert_close(gradients[1], gradients[0], 3e-6)


def test_the_derivative_of_a_table_is_exact() -> None:
    distance = torch.linspace(0.9, 5.9, 11, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: edge_call(x, tabulated=True), distance, eps=1e-6, atol=1e-6)


def test_a_tabulated_linear_map_is_the_computed_one() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        basis, weight = RadialBasis(31, 3.0, 8).double(), torch.randn(16, 31, dtype=torch.float64)
        maps = [RadialLinear(basis, weight, tabulated=tabulated) for tabulated in (False, True)]
    distance = torch.linspace(0.2, 3.0, 301, dtype=torch.float64).requires_grad_()
    results = [each(distance) for each in maps]
    assert_close(results[1], results[0], 3e-7)
    gradients = [torch.autograd.grad(y.square().sum(), distance)[0] for y in results]
    assert_close(gradients[1], gradients[0], 3e-6)
    assert maps[1](distance[:0]).shape == (0, 16)


def test_interpolation_refuses_other_tables_and_second_derivatives() -> None:
    x, table = torch.rand(4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="W a multiple of 8"):
        torch.ops.uip.interpolate(x, table[:, :, :7].contiguous())
    with pytest.raises(RuntimeError, match="a table must be a constant"):
        torch.ops.uip.interpolate(x, table.clone().requires_grad_())
    (slope,) = torch.autograd.grad(torch.ops.uip.interpolate(x, table).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not implemented|does not require grad|derivative"):
        torch.autograd.grad(slope.sum(), x)
