"""The token embedding of AllScAIP: initial tokens from elements, charge, spin, distances and directions.

Letters: N atoms, S bonds, H channels. Y_l: real spherical harmonics of the bond direction; [ , ]: concatenation.

    q_i,l = | mean over the row of Y_l / sqrt(2 l + 1) |        bond-orientational order, l = 0 .. 9
    n_i   = GELU(W norm([element_i, GELU(W' q_i)])) + GELU(W'' [charge, spin])
    e_ij  = GELU(W [Gaussians of d_ij, Y_0 .. Y_5])
    t_ij  = GELU(W [n_i, e_ij]);   v_i = t_ii with d = 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.spherical import degree_sums
from uip.ops.recompute import recomputed
from uip.schema import MAX_CHARGE, MAX_SPIN

if TYPE_CHECKING:
    from uip.models.allscaip import AllScAIPConfig

HARMONICS_DEGREE = 5
"""Largest degree of the harmonics of the bond direction in bond tokens."""
ORDER_DEGREE = 9
"""Largest degree of the bond-orientational order parameters of an atom."""


@dataclass(frozen=True)
class Bonds:
    """Geometry of bonds."""

    centre: Tensor
    """(S,)."""
    distance: Tensor
    """(S,) A."""
    direction: Tensor
    """(S, 3), unit vectors."""
    harmonics: Tensor
    """(S, 100); sum over m of the squares is 1 for each degree."""
    log_weight: Tensor
    """(S,) ln w."""


class TokenEmbedding(nn.Module):
    """Initial tokens, from elements, charge, spin, distances and directions."""

    degree_scale: Tensor
    degree_sums: Tensor

    def __init__(self, config: AllScAIPConfig) -> None:
        super().__init__()
        channels = config.channels
        self.smooth, self.cutoff, self.num_radial = config.smooth, config.cutoff, config.num_radial
        self.element_scale = config.element_scale
        sizes = [2 * degree + 1 for degree in range(HARMONICS_DEGREE + 1)]
        scale = [math.sqrt(size) for size in sizes for _ in range(size)]
        self.register_buffer("degree_scale", torch.tensor(scale, dtype=torch.float64), persistent=False)
        self.register_buffer("degree_sums", degree_sums(ORDER_DEGREE), persistent=False)
        self.element = nn.Embedding(config.num_elements + 1, channels)
        self.order = nn.Linear(ORDER_DEGREE + 1, channels)
        self.norm = nn.RMSNorm(2 * channels)
        self.atom = nn.Linear(2 * channels, channels)
        self.charge = nn.Embedding(2 * MAX_CHARGE + 1, channels)
        self.spin = nn.Embedding(MAX_SPIN + 1, channels)
        self.charge_spin = nn.Linear(2 * channels, channels)
        self.bond = nn.Linear(config.num_radial + (HARMONICS_DEGREE + 1) ** 2, channels)
        self.token = nn.Linear(2 * channels, channels)

    def forward(
        self, species: Tensor, graph_index: Tensor, charge: Tensor, spin: Tensor, bonds: Bonds, *, recompute: bool
    ) -> tuple[Tensor, Tensor]:
        """Atom tokens (N, H) and bond tokens (S, H)."""
        state = torch.cat([self.charge(charge + MAX_CHARGE), self.spin(spin)], dim=1)
        state = F.gelu(self.charge_spin(state)).index_select(0, graph_index)
        order = F.gelu(self.order(self._order(bonds, species.shape[0])))
        atom = F.gelu(self.atom(self.norm(torch.cat([self.element(species), order], dim=1)))) + state
        of_atom, of_bond = self.token.weight.chunk(2, dim=1)
        of_atom = F.linear(atom, of_atom, self.token.bias)
        own = F.linear(F.gelu(self._bond(*self._self_bond(bonds))), of_bond)

        def token(of_centre: Tensor, distance: Tensor, harmonics: Tensor) -> Tensor:
            of_bond = self.token.weight.chunk(2, dim=1)[1]
            return F.gelu(of_centre + F.linear(F.gelu(self._bond(distance, harmonics)), of_bond))

        harmonics = bonds.harmonics[:, : self.degree_scale.shape[0]]
        inputs = (of_atom.index_select(0, bonds.centre), bonds.distance, harmonics)
        weights = (*self.bond.parameters(), self.token.weight)
        return F.gelu(of_atom + own), recomputed(token, *inputs, weights=weights) if recompute else token(*inputs)

    def _self_bond(self, bonds: Bonds) -> tuple[Tensor, Tensor]:
        """Distance and harmonics of an atom with itself."""
        harmonics = bonds.harmonics.new_zeros(1, self.degree_scale.shape[0])
        return bonds.distance.new_zeros(1), harmonics.index_fill(1, harmonics.new_zeros(1, dtype=torch.int64), 1.0)

    def _bond(self, distance: Tensor, harmonics: Tensor) -> Tensor:
        """(S, H) from distances (S,) A and harmonics (S, 36)."""
        centres = torch.linspace(0.0, self.cutoff, self.num_radial, dtype=distance.dtype, device=distance.device)
        width = 2.0 * self.cutoff / (self.num_radial - 1)
        gaussians = torch.exp(-0.5 * ((distance.unsqueeze(1) - centres) / width).square())
        scaled = harmonics * self.degree_scale.to(distance.dtype)
        return cast(Tensor, self.bond(torch.cat([gaussians, scaled], dim=1)))

    def _order(self, bonds: Bonds, num_atoms: int) -> Tensor:
        """(N, 10): norm of the mean harmonics of each degree, over the bonds of an atom and the atom itself."""
        weight = torch.exp(bonds.log_weight) if self.smooth else torch.ones_like(bonds.log_weight)
        total = weight.new_ones(num_atoms).index_add(0, bonds.centre, weight)
        own = F.pad(weight.new_ones(num_atoms, 1), (0, bonds.harmonics.shape[1] - 1))
        mean = own.index_add(0, bonds.centre, bonds.harmonics * weight.unsqueeze(1)) / total.unsqueeze(1)
        return torch.mm(mean * mean, self.degree_sums.to(mean.dtype)).clamp(min=1e-6).sqrt()
