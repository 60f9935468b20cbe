"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031, 2023) as a function of edge vectors.

Letters: N owned atoms, R rows (owned + ghosts), E directed edges, S bonds (edges within `bond_cutoff`),
A angles (ordered pairs of bonds with one centre), C channels. Per layer, with G a gated MLP,

    v_i += W_v sum_{j}  G([v_i, e_ij, v_j]) * w_ij                       atoms from edges
    s_a  = sum_{b}      G([e_a, e_b, t_ab, v_c]) * u_a * u_b             bonds from angles
    e_a += W_e (s_a + s_reverse(a))                                      both directions of a bond agree
    t_ab += G([e_a, e_b, t_ab, v_c])                                     angles

and E = sum_i MLP(v_i) + reference energy of the element. Equal to the published code, arranged so that
nothing is computed twice: the first layer of each G is a sum of per-atom, per-bond and per-angle
products; edges longer than a bond never change, so their product comes straight from the radial basis;
the last angle update, which nothing reads, does not exist.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.basis import AngularBasis, RadialBasis
from uip.nn.mlp import GatedMLP
from uip.parallel import BONDS, ghost_gather, reverse_edges


@dataclass(frozen=True)
class CHGNetConfig:
    """Architecture of a CHGNet; the defaults are version 0.3.0."""

    num_elements: int = 94
    """Elements 1 (H) .. num_elements are known."""
    channels: int = 64
    num_layers: int = 4
    """Atom updates; bonds are updated num_layers - 1 times, angles num_layers - 2 times."""
    cutoff: float = 6.0
    """A."""
    bond_cutoff: float = 3.0
    """A; edges that form angles are shorter."""
    num_radial: int = 31
    num_angular: int = 31
    envelope_exponent: int = 8
    num_readout: int = 3
    """Hidden layers of the energy MLP."""
    norm: bool = True
    """Layer normalisation in the gated MLPs and before the readout (false: version 0.2.0)."""
    output_bias: bool = False
    """Bias in W_v and W_e (true: version 0.2.0). It changes edges of any length, so the energy jumps when a
    structure gains its first angle."""
    published_rounding: bool = False
    """Evaluate the envelope as the published code does, float32 rounding included (up to 2e-4 eV/A where bonds end
    near `bond_cutoff`), instead of in the exact form: for published weights, so that their numbers are reproduced."""


class Output(NamedTuple):
    """node_energy (N,) eV, summing to the total energy; magmoms (N,) mu_B."""

    node_energy: Tensor
    magmoms: Tensor


class AtomUpdate(nn.Module):
    """v_i += W_v sum_j G([v_i, e_ij, v_j]) * w_ij."""

    def __init__(self, config: CHGNetConfig) -> None:
        super().__init__()
        self.message = GatedMLP(3, config.channels, hidden=True, norm=config.norm)
        self.output = nn.Linear(config.channels, config.channels, bias=config.output_bias)

    def forward(self, v: Tensor, rows_like: Tensor, edge: Tensor, weight: Tensor, edge_index: Tensor) -> Tensor:
        """`v` (N, C); `edge` (E, 2C): the edges' part of the first layer, bias included; `weight` (E, C): w_ij."""
        centre = self.message.project(v, 0)
        neighbor = self.message.project(ghost_gather(v, rows_like), 2)
        total = edge + centre.index_select(0, edge_index[0]) + neighbor.index_select(0, edge_index[1])
        message = self.message(total) * weight
        return v + self.output(torch.zeros_like(v).index_add(0, edge_index[0], message))


class AngleMessage(nn.Module):
    """G([e_a, e_b, t_ab, v_c]) for all angles, (A, C)."""

    def __init__(self, config: CHGNetConfig, *, hidden: bool) -> None:
        super().__init__()
        self.message = GatedMLP(4, config.channels, hidden=hidden, norm=config.norm)

    def forward(self, e: Tensor, t: Tensor, v: Tensor, bond_centre: Tensor, angle_index: Tensor) -> Tensor:
        """`e` (S, C) bonds, `t` (A, C) angles, `v` (N, C) atoms, `bond_centre` (S,)."""
        centre = F.linear(v, self.message.weight(3), self.message.first.bias)
        first = self.message.project(e, 0) + centre.index_select(0, bond_centre)
        second = self.message.project(e, 1)
        total = self.message.project(t, 2)
        total = total + first.index_select(0, angle_index[0]) + second.index_select(0, angle_index[1])
        return self.message(total)


class CHGNet(nn.Module):
    """Energies and magnetic moments of atoms; see the module's text.

    Forces and stress are gradients with respect to `edge_vec` and live outside (`uip.models.heads`).
    """

    name = "chgnet"
    outputs = ("energy", "forces", "stress", "magmoms")

    def __init__(self, config: CHGNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, layers = config.channels, config.num_layers
        self.register_buffer("reference_energy", torch.zeros(config.num_elements))
        self.atom_embedding = nn.Embedding(config.num_elements, channels)
        self.edge_basis, self.bond_basis = (
            RadialBasis(
                config.num_radial,
                cutoff,
                config.envelope_exponent,
                published_rounding=config.published_rounding,
            )
            for cutoff in (config.cutoff, config.bond_cutoff)
        )
        self.angle_basis = AngularBasis(config.num_angular)
        self.edge_embedding = nn.Linear(config.num_radial, channels, bias=False)
        self.edge_weight = nn.Linear(config.num_radial, channels, bias=False)
        self.bond_weight = nn.Linear(config.num_radial, channels, bias=False)
        self.angle_embedding = nn.Linear(config.num_angular, channels, bias=False)
        self.atom_updates = nn.ModuleList(AtomUpdate(config) for _ in range(layers))
        self.bond_messages = nn.ModuleList(AngleMessage(config, hidden=True) for _ in range(layers - 1))
        self.bond_outputs = nn.ModuleList(
            nn.Linear(channels, channels, bias=config.output_bias) for _ in range(layers - 1)
        )
        self.angle_updates = nn.ModuleList(AngleMessage(config, hidden=False) for _ in range(layers - 2))
        self.magmom = nn.Linear(channels, 1)
        self.readout_norm = nn.LayerNorm(channels) if config.norm else nn.Identity()
        hidden = [layer for _ in range(config.num_readout) for layer in (nn.Linear(channels, channels), nn.SiLU())]
        self.readout = nn.Sequential(*hidden, nn.Linear(channels, 1))

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def bond_cutoff(self) -> float:
        return self.config.bond_cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        return tuple(range(1, self.config.num_elements + 1))

    def settings(self) -> dict[str, object]:
        """What rebuilds this architecture: `CHGNet(from_dict(CHGNetConfig, settings))`."""
        return asdict(self.config)

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Output:
        """Tensors as in `uip.schema`."""
        species = atomic_numbers[: graph_index.shape[0]] - 1
        distance = torch.linalg.vector_norm(edge_vec, dim=1)
        bond_centre = edge_index[0].index_select(0, bond_index)

        # features that depend on geometry alone
        radial = self.edge_basis(distance)
        weight = self.edge_weight(radial)
        bond_distance = distance.index_select(0, bond_index)
        bond_weight = self.bond_weight(self.bond_basis(bond_distance))
        direction = edge_vec.index_select(0, bond_index) / bond_distance.unsqueeze(1)
        cosine = (direction.index_select(0, angle_index[0]) * direction.index_select(0, angle_index[1])).sum(1)

        # v atoms, e bonds, t angles; e of an edge that is no bond stays W radial for ever
        v = self.atom_embedding(species)
        start = self.edge_embedding(radial.index_select(0, bond_index))
        e = start
        t = self.angle_embedding(self.angle_basis(cosine))
        second_weight = bond_weight.index_select(0, angle_index[1])
        magmoms = v.new_zeros(v.shape[0])
        for layer, update in enumerate(self.atom_updates):
            if layer > 0:
                message = self.bond_messages[layer - 1](e, t, v, bond_centre, angle_index) * second_weight
                s = torch.zeros_like(e).index_add(0, angle_index[0], message) * bond_weight
                e = e + self.bond_outputs[layer - 1](s + reverse_edges(s, reverse_bond, BONDS))
            if 0 < layer < len(self.atom_updates) - 1:
                t = t + self.angle_updates[layer - 1](e, t, v, bond_centre, angle_index)
            if layer == len(self.atom_updates) - 1:
                magmoms = self.magmom(v).squeeze(1).abs()
            edge = F.linear(radial, update.message.weight(1) @ self.edge_embedding.weight, update.message.first.bias)
            if layer > 0:
                edge = edge.index_add(0, bond_index, update.message.project(e - start, 1))
                edge = self._shift_long_edges(edge, layer, edge_index, graph_index, bond_index, bond_centre, angle_index)
            v = update(v, atomic_numbers, edge, weight, edge_index)
        node_energy = self.readout(self.readout_norm(v)).squeeze(1)
        return Output(node_energy + self.reference_energy.index_select(0, species), magmoms)

    def _shift_long_edges(
        self,
        edge: Tensor,
        layer: int,
        edge_index: Tensor,
        graph_index: Tensor,
        bond_index: Tensor,
        bond_centre: Tensor,
        angle_index: Tensor,
    ) -> Tensor:
        """Version 0.2.0: the bias of W_e changes every edge of a structure that has an angle, not just its bonds."""
        if not self.config.output_bias:
            return edge
        bias = torch.stack([self.bond_outputs[k].bias for k in range(layer)]).sum(0)
        shift = self.atom_updates[layer].message.project(bias, 1)
        angle_graph = graph_index.index_select(0, bond_centre.index_select(0, angle_index[0]))
        angles_of_graph = edge.new_zeros(graph_index.shape[0]).index_add(0, angle_graph, edge.new_ones(angle_graph.shape))
        has_angle = (angles_of_graph > 0).to(edge.dtype).index_select(0, graph_index.index_select(0, edge_index[0]))
        # bonds carry the bias already
        has_angle = has_angle.index_fill(0, bond_index, 0.0)
        return edge + has_angle.unsqueeze(1) * shift
