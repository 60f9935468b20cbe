"""Soft nearest neighbours (Qu et al., arXiv:2603.06567): which edges carry messages, and with which weight.

Letters: N atoms, M nearest neighbours of an atom, S bonds. With s(x) a smooth step from 0 (x <= -4) to 1 (x >= 4),

    rank_i(j) = sum_{c in nearest(i)} s((d_ij - d_ic) / sigma)           number of nearer atoms, i included
    x_ij      = tau log(exp(rank_i(j) / (k tau)) + exp(rank_j(i) / (k tau)) + exp(d_ij / (cutoff tau)))
    ln w_ij   = -x^2 / (1 - x^2)                                         bonds have x < 1

Both ranks enter symmetrically, so a bond and its reverse have the same weight. A rank depends on neighbours up to
4 sigma beyond the bond: the edge cutoff of such a model is `SoftNearest.reach`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEP_END = 0.98
"""Bound of |x / 4|: beyond it the step equals 0 or 1 in float64."""


@dataclass(frozen=True)
class SoftNearest:
    """Criterion for an edge to be a bond; the defaults are those of all published AllScAIP models."""

    k: float = 30.0
    """Approximate largest number of bonds of an atom: x = 1 at rank k."""
    nearest: int = 50
    """Number of candidates of an atom, including itself."""
    cutoff: float = 6.0
    """A; bonds are shorter."""
    sigma: float = 0.2
    """A; width of the smooth step: distances that differ by more than 4 sigma have sharp ranks."""
    tau: float = 0.1
    """Softness of the maximum of the three terms."""

    @property
    def reach(self) -> float:
        """A; neighbours farther away have no effect."""
        return self.cutoff + 4.0 * self.sigma


def smooth_step(x: Tensor) -> Tensor:
    """s(x) = sigmoid(4 u / (1 - u^2)) with u = x / 4; all derivatives vanish at the ends."""
    u = (0.25 * x).clamp(-STEP_END, STEP_END)
    return torch.sigmoid(4.0 * u / (1.0 - u * u))


def soft_rank(distance: Tensor, nearest: Tensor, sigma: float) -> Tensor:
    """Ranks (S,) of neighbours at `distance` (S,) among candidates at `nearest` (S, M); the centre atom is counted."""
    nearer = smooth_step((distance.unsqueeze(1) - nearest) / sigma).sum(1)
    return nearer + smooth_step(distance / sigma)


def envelope_coordinate(rank: Tensor, reverse_rank: Tensor, distance: Tensor, soft: SoftNearest) -> Tensor:
    """x (S,); infinite where a rank is infinite."""
    terms = torch.stack([rank / soft.k, reverse_rank / soft.k, distance / soft.cutoff]) / soft.tau
    return soft.tau * torch.logsumexp(terms, dim=0)


def log_envelope(x: Tensor) -> Tensor:
    """ln w = -x^2 / (1 - x^2), (S,); very negative where x rounds to 1."""
    square = x * x
    return -square / (1.0 - square).clamp(min=1e-6)
