# ruff: noqa: E741  (l is the degree, as everywhere)
"""Real spherical harmonics and Legendre polynomials of unit vectors, as polynomials: smooth everywhere.

With y the polar axis and (z + i x)^m = C_m + i S_m, harmonics of all orders m follow from those of two lower degrees:

    Y_m^{+m} = c_m C_m,  Y_m^{-m} = c_m S_m,  c_m = sqrt(2 (2m - 1)!! / (2m)!!)  (m > 0),  Y_0^0 = 1
    Y_l^m = ((2l - 1) y Y_{l-1}^m - sqrt((l - 1)^2 - m^2) Y_{l-2}^m) / sqrt(l^2 - m^2)

so that sum_m Y_lm(u) Y_lm(v) = P_l(u . v). Derivatives of solid harmonics r^l Y_lm are solid harmonics of degree l - 1:
the gradient of one harmonic is a sum of others, and so are all further derivatives. Order of components: l = 0, 1, ...;
m = -l .. l; signs and axes are those of e3nn, with which the published weights were trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SphericalHarmonics(nn.Module):
    """Y_lm of unit vectors for l = 0 .. degree, with sum_m Y_lm^2 = 1 for each l.

    The gradient with respect to the unit vector lacks its radial part, which normalisation removes in any case.
    """

    recurrence: Tensor
    gradient: Tensor

    def __init__(self, degree: int) -> None:
        super().__init__()
        rows = [_recurrence(l, degree) for l in range(1, degree + 1)]
        self.register_buffer("recurrence", torch.tensor(rows, dtype=torch.float64), persistent=False)
        self.register_buffer("gradient", _gradient(degree), persistent=False)

    def forward(self, direction: Tensor) -> Tensor:
        """(S, (degree + 1)^2) of unit vectors (S, 3)."""
        constants = self.recurrence.to(direction.dtype), self.gradient.to(direction.dtype)
        harmonics: Tensor = _Harmonics.apply(direction, *constants)
        return harmonics


class _Harmonics(torch.autograd.Function):
    """Written as autograd would do it, a program is twenty times as long, and takes minutes to compile."""

    @staticmethod
    def forward(ctx: Any, direction: Tensor, recurrence: Tensor, gradient: Tensor) -> Tensor:
        harmonics = _harmonics(direction, recurrence)
        ctx.save_for_backward(harmonics, gradient)
        return harmonics

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        harmonics, gradient = ctx.saved_tensors
        jacobian = torch.mm(harmonics, gradient).view(-1, 3, grad.shape[1])
        return torch.bmm(jacobian, grad.unsqueeze(2)).squeeze(2), None, None


def _harmonics(direction: Tensor, recurrence: Tensor) -> Tensor:
    degree = recurrence.shape[0]
    x, y, z = direction.split(1, dim=1)
    cosines, sines = _powers(z, x, degree)
    one = torch.ones_like(y)
    first = torch.cat([sines.flip(1), one, cosines], dim=1)
    lower, harmonics = torch.zeros_like(first), F.pad(one, (degree, degree))
    components = [one]
    for l, (a, b, c) in enumerate(recurrence.unbind(0), start=1):
        lower, harmonics = harmonics, a * y * harmonics - b * lower + c * first
        components.append(harmonics[:, degree - l : degree + l + 1])
    return torch.cat(components, dim=1)


def _powers(real: Tensor, imaginary: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of the powers 1 .. degree of complex numbers (S, 1), each (S, degree)."""
    cosines, sines = real, imaginary
    while (count := cosines.shape[1]) < degree:  # times the highest power
        c, s = cosines[:, : degree - count], sines[:, : degree - count]
        high_c, high_s = cosines[:, -1:], sines[:, -1:]
        higher = high_c * c - high_s * s, high_c * s + high_s * c
        cosines, sines = torch.cat([cosines, higher[0]], dim=1), torch.cat([sines, higher[1]], dim=1)
    return cosines, sines


def _recurrence(l: int, degree: int) -> list[list[float]]:
    """Factors of y Y_{l-1}, of Y_{l-2}, and of C_m or S_m in Y_l, for m = -degree .. degree."""
    orders = [abs(m) for m in range(-degree, degree + 1)]
    highest = math.sqrt(2.0 * math.prod((2 * k - 1) / (2 * k) for k in range(1, l + 1)))
    return [
        [(2 * l - 1) / math.sqrt(l * l - m * m) if m < l else 0.0 for m in orders],
        [math.sqrt(((l - 1) ** 2 - m * m) / (l * l - m * m)) if m < l - 1 else 0.0 for m in orders],
        [highest if m == l else 0.0 for m in orders],
    ]


def _gradient(degree: int) -> Tensor:
    """(K, 3 K) with K = (degree + 1)^2: harmonics of degree l - 1 in the derivatives of those of degree l.

    With P_l^m = r^l (Y_l^{+m} + i Y_l^{-m}) / s_lm, s_lm = sqrt((l - m)! (l + m)!), times sqrt(2) for m > 0:

        d/dy P_l^m = P_{l-1}^m,   d/dz P_l^m = (P_{l-1}^{m-1} - P_{l-1}^{m+1}) / 2,
        d/dx P_l^m = i (P_{l-1}^{m-1} + P_{l-1}^{m+1}) / 2,   P_l^{-1} = -conj(P_l^1)
    """
    matrix = torch.zeros((degree + 1) ** 2, 3, (degree + 1) ** 2, dtype=torch.float64)
    for l in range(1, degree + 1):
        for m in range(-l, l + 1):
            order, part = abs(m), -1 if m < 0 else 1  # part: 1 real, -1 imaginary
            terms = [(1, order, part, 1.0)]
            terms += [(2, order - 1, part, 0.5), (2, order + 1, part, -0.5)]
            terms += [(0, order - 1, -part, -0.5 * part), (0, order + 1, -part, -0.5 * part)]
            for axis, other, kind, factor in terms:
                if abs(other) < l and (other or kind > 0):
                    sign = -kind if other < 0 else 1
                    row = l * l - l + kind * abs(other)
                    matrix[row, axis, l * l + l + m] += sign * factor * _scale(l, order) / _scale(l - 1, abs(other))
    return matrix.flatten(1)


def _scale(l: int, m: int) -> float:
    return math.sqrt((2 if m else 1) * math.factorial(l - m) * math.factorial(l + m))


def legendre(cosine: Tensor, degree: int) -> list[Tensor]:
    """P_0 .. P_degree of `cosine`, each of its shape."""
    p = [torch.ones_like(cosine), cosine]
    for l in range(2, degree + 1):
        p.append(((2 * l - 1) * cosine * p[-1] - (l - 1) * p[-2]) / l)
    return p[: degree + 1]


def degree_sums(degree: int) -> Tensor:
    """(K, degree + 1) with K = (degree + 1)^2: 1 where a component is of a degree. The squares of components times this
    matrix are the norms of the degrees, squared."""
    rows = [[float(l == other) for other in range(degree + 1)] for l in range(degree + 1) for _ in range(2 * l + 1)]
    return torch.tensor(rows, dtype=torch.float64)
