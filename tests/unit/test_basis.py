"""The envelope's triple-root form, and the bases against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from uip.nn.basis import AngularBasis, RadialBasis, envelope, expanded_envelope


@pytest.mark.parametrize("exponent", [5, 6, 8])
def test_the_two_forms_are_one_polynomial(exponent: int) -> None:
    x = torch.linspace(0, 1.2, 1201, dtype=torch.float64)
    torch.testing.assert_close(envelope(x, exponent), expanded_envelope(x, exponent), rtol=0, atol=2e-13)


def test_float32_keeps_its_digits_near_the_cutoff() -> None:
    x = torch.linspace(0.95, 0.9999, 1000, dtype=torch.float64)
    exact = envelope(x, 8)
    error = (envelope(x.float().double(), 8) - envelope(x.float(), 8).double()).abs() / exact
    assert error.max() < 1e-5
    worse = (expanded_envelope(x.float().double(), 8) - expanded_envelope(x.float(), 8).double()).abs() / exact
    assert worse.max() > 1.0, "if this fails, the expanded form has become good enough and can go"


def test_three_derivatives_vanish() -> None:
    x = torch.tensor([1.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    value = envelope(x, 8)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert value.item() < 1e-24
    assert abs(first.item()) < 1e-14
    assert abs(second.item()) < 1e-5
    assert envelope(torch.tensor([1.0, 1.5, 7.0]), 8).tolist() == [0.0, 0.0, 0.0]


def test_radial_basis() -> None:
    basis = RadialBasis(5, 6.0, 8).double()
    r = torch.tensor([0.7, 2.5, 5.9], dtype=torch.float64)
    k = torch.arange(1, 6, dtype=torch.float64)
    x = r / 6.0
    u = 1 - 45 * x**8 + 80 * x**9 - 36 * x**10
    expected = math.sqrt(2 / 6) * torch.sin(math.pi * k * x[:, None]) / r[:, None] * u[:, None]
    torch.testing.assert_close(basis(r), expected, rtol=1e-5, atol=1e-6)  # pi was rounded to float32


def test_angular_basis_is_finite_for_straight_angles() -> None:
    basis = AngularBasis(7).double()
    cosine = torch.tensor([-1.0, -0.3, 1.0], dtype=torch.float64, requires_grad=True)
    value = basis(cosine)
    (gradient,) = torch.autograd.grad(value.sum(), cosine)
    assert torch.isfinite(gradient).all()
    theta = math.acos(-0.3 * (1 - 1e-6))
    expected = [math.sqrt(0.5)] + [math.sin(k * theta) for k in (1, 2, 3)] + [math.cos(k * theta) for k in (1, 2, 3)]
    torch.testing.assert_close(value[1].detach(), torch.tensor(expected, dtype=torch.float64) / math.sqrt(math.pi))
