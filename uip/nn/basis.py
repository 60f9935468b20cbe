"""Basis functions of distances and angles, and the cutoff envelope.

Envelope (Gasteiger et al., arXiv:2003.03123, eq. 8), x = r / cutoff, exponent p:
    u(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)
         = (1 - x)^3 sum_{k<p} (k+1)(k+2)/2 x^k
The second form is the same polynomial with its triple root factored out: near the cutoff, in float32, the first
form loses all digits, the second keeps five.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def envelope(x: Tensor, exponent: int) -> Tensor:
    """u(x) for x = r / cutoff, any shape; zero with two vanishing derivatives at and beyond x = 1."""
    value = torch.full_like(x, exponent * (exponent + 1) / 2)
    for k in range(exponent - 2, -1, -1):
        value = value * x + (k + 1) * (k + 2) / 2
    return torch.clamp(1.0 - x, min=0.0).pow(3) * value


def expanded_envelope(x: Tensor, exponent: int) -> Tensor:
    """u(x) in its first form, as the published code evaluates it: error up to 7e-6 in float32."""
    p = exponent
    value = 1.0 - (p + 1) * (p + 2) / 2 * x.pow(p) + p * (p + 2) * x.pow(p + 1) - p * (p + 1) / 2 * x.pow(p + 2)
    return torch.where(x < 1.0, value, torch.zeros_like(x))


class RadialBasis(nn.Module):
    """sqrt(2 / rc) sin(f_k r / rc) / r u(r / rc), k = 1..n, with learned frequencies f_k (CHGNet, Methods, eq. 2).

    Distances (E,) A to (E, n). With `published_rounding` the envelope is evaluated in its expanded form.
    """

    def __init__(
        self, num_radial: int, cutoff: float, envelope_exponent: int, *, published_rounding: bool = False
    ) -> None:
        super().__init__()
        self.published_rounding = published_rounding
        self.cutoff = float(cutoff)
        self.envelope_exponent = envelope_exponent
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, num_radial + 1, dtype=torch.get_default_dtype()))

    def split(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """x = r / rc and sqrt(2 / rc) u(x) / r, (E,): functions are sin(f_k x) times the second."""
        x = distance / self.cutoff
        u = expanded_envelope if self.published_rounding else envelope
        return x, math.sqrt(2.0 / self.cutoff) * u(x, self.envelope_exponent) / distance

    def forward(self, distance: Tensor) -> Tensor:
        x, scale = self.split(distance)
        return torch.sin(x.unsqueeze(1) * self.frequencies) * scale.unsqueeze(1)


class AngularBasis(nn.Module):
    """[1/sqrt 2, sin(g_k theta), cos(g_k theta)] / sqrt pi, k = 1..n, with learned g_k (CHGNet, Methods, eq. 3).

    Cosines of angles (A,) to (A, 2 n + 1). theta = acos((1 - 1e-6) cos), as in the
    published model: the derivative of acos stays finite for straight angles.
    """

    def __init__(self, num_angular: int) -> None:
        super().__init__()
        order = (num_angular - 1) // 2
        self.frequencies = nn.Parameter(torch.arange(1, order + 1, dtype=torch.get_default_dtype()))

    def forward(self, cosine: Tensor) -> Tensor:
        return self.of_angle(self.angle(cosine))

    @staticmethod
    def angle(cosine: Tensor) -> Tensor:
        """theta, any shape, from 0 to pi."""
        return torch.acos(cosine * (1.0 - 1e-6))

    def of_angle(self, theta: Tensor) -> Tensor:
        """Angles (A,) to (A, 2 n + 1)."""
        phase = theta.unsqueeze(1) * self.frequencies
        constant = torch.full_like(theta, math.sqrt(0.5)).unsqueeze(1)
        return torch.cat([constant, torch.sin(phase), torch.cos(phase)], dim=1) / math.sqrt(math.pi)
