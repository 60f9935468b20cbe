"""Real spherical harmonics and Legendre polynomials of unit vectors, as polynomials: smooth everywhere.

With y the polar axis, (z + i x)^m = C_m + i S_m, and Q_l^m(y) sin^m(theta) the associated Legendre functions
without the Condon-Shortley phase,

    Y_l^0 = Q_l^0,   Y_l^{+m} = sqrt(2 (l - m)! / (l + m)!) Q_l^m C_m,   Y_l^{-m} likewise with S_m

so that sum_m Y_lm(u) Y_lm(v) = P_l(u . v). Order of components: l = 0, 1, ...; m = -l .. l; signs and axes are those
of e3nn, with which the published weights were trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spherical_harmonics(direction: Tensor, degree: int) -> Tensor:
    """Y_lm of unit vectors (S, 3) for l = 0 .. degree, (S, (degree + 1)^2), with sum_m Y_lm^2 = 1 for each l."""
    x, y, z = direction.unbind(1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(z * c - x * s)
        sines.append(x * c + z * s)
    polar = _polar_parts(y, degree)
    components = []
    for l in range(degree + 1):  # noqa: E741
        scale = [math.sqrt(2.0 * math.factorial(l - m) / math.factorial(l + m)) for m in range(l + 1)]
        negative = [scale[m] * polar[l, m] * sines[m] for m in range(l, 0, -1)]
        positive = [scale[m] * polar[l, m] * cosines[m] for m in range(1, l + 1)]
        components += [*negative, polar[l, 0], *positive]
    return torch.stack(components, dim=1)


def _polar_parts(y: Tensor, degree: int) -> dict[tuple[int, int], Tensor]:
    """Q_l^m(y), each of the shape of `y`."""
    q: dict[tuple[int, int], Tensor] = {}
    for m in range(degree + 1):
        q[m, m] = torch.full_like(y, math.prod(range(1, 2 * m, 2)))
        if m < degree:
            q[m + 1, m] = (2 * m + 1) * y * q[m, m]
        for l in range(m + 2, degree + 1):  # noqa: E741
            q[l, m] = ((2 * l - 1) * y * q[l - 1, m] - (l + m - 1) * q[l - 2, m]) / (l - m)
    return q


def legendre(cosine: Tensor, degree: int) -> list[Tensor]:
    """P_0 .. P_degree of `cosine`, each of its shape."""
    p = [torch.ones_like(cosine), cosine]
    for l in range(2, degree + 1):  # noqa: E741
        p.append(((2 * l - 1) * cosine * p[-1] - (l - 1) * p[-2]) / l)
    return p[: degree + 1]


def degree_norms(components: Tensor) -> Tensor:
    """sum_m c_lm^2 for each l: (N, (degree + 1)^2) to (N, degree + 1)."""
    degree = math.isqrt(components.shape[1]) - 1
    parts = (components * components).split([2 * l + 1 for l in range(degree + 1)], dim=1)  # noqa: E741
    return torch.stack([part.sum(1) for part in parts], dim=1)
