"""Soft nearest neighbours (Qu et al., arXiv:2603.06567): which edges carry messages, and how strongly.

Letters: N atoms, M nearest neighbours of each, S bonds. With s(x) a smooth step from 0 (x <= -4) to 1 (x >= 4),

    rank_i(j) = sum_{c in nearest(i)} s((d_ij - d_ic) / sigma)           how many are nearer, i itself counted
    x_ij      = tau log(exp(rank_i(j) / (k tau)) + exp(rank_j(i) / (k tau)) + exp(d_ij / (cutoff tau)))
    ln w_ij   = -x^2 / (1 - x^2)                                         x < 1; others are no bonds

Both ranks enter alike, so a bond and its reverse have one weight and are kept or dropped together. A rank feels
neighbours up to 4 sigma beyond the bond: the edges of such a model are `SoftNearest.reach` long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEP_END = 0.98
"""Of x / 4: nearer to the ends the step is 0 or 1 to more digits than float64 has."""


@dataclass(frozen=True)
class SoftNearest:
    """What makes an edge a bond; the defaults are those of all published AllScAIP models."""

    k: float = 30.0
    """Bonds that an atom has at most, about: x = 1 at rank k."""
    nearest: int = 50
    """Candidates of an atom, itself counted."""
    cutoff: float = 6.0
    """A; bonds are shorter."""
    sigma: float = 0.2
    """A; distances that differ by more than 4 sigma are ordered, nearer ones share their ranks."""
    tau: float = 0.1
    """Softness of the maximum of the three terms."""

    @property
    def reach(self) -> float:
        """A; neighbours farther away change nothing."""
        return self.cutoff + 4.0 * self.sigma


def smooth_step(x: Tensor) -> Tensor:
    """s(x) = sigmoid(4 u / (1 - u^2)) with u = x / 4; all derivatives vanish at the ends."""
    u = (0.25 * x).clamp(-STEP_END, STEP_END)
    return torch.sigmoid(4.0 * u / (1.0 - u * u))


def soft_rank(distance: Tensor, nearest: Tensor, sigma: float) -> Tensor:
    """Ranks (S,) of neighbours at `distance` (S,) among candidates at `nearest` (S, M); the centre's own is added."""
    nearer = smooth_step((distance.unsqueeze(1) - nearest) / sigma).sum(1)
    return nearer + smooth_step(distance / sigma)


def envelope_coordinate(rank: Tensor, reverse_rank: Tensor, distance: Tensor, soft: SoftNearest) -> Tensor:
    """x (S,); infinite where a rank is."""
    terms = torch.stack([rank / soft.k, reverse_rank / soft.k, distance / soft.cutoff]) / soft.tau
    return soft.tau * torch.logsumexp(terms, dim=0)


def log_envelope(x: Tensor) -> Tensor:
    """ln w = -x^2 / (1 - x^2), (S,); very negative where rounding has lifted x to 1."""
    square = x * x
    return -square / (1.0 - square).clamp(min=1e-6)
