"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031, 2023) as a function of edge vectors.

Letters: N owned atoms, R rows (owned + ghosts), E directed edges, S bonds (edges within `bond_cutoff`),
A angles (ordered pairs of bonds with one centre), C channels. Per layer, with G a gated MLP,

    v_i += W_v sum_{j}  G([v_i, e_ij, v_j]) * w_ij                       atoms from edges
    s_a  = sum_{b}      G([e_a, e_b, t_ab, v_c]) * u_a * u_b             bonds from angles
    e_a += W_e (s_a + s_reverse(a))                                      both directions of a bond agree
    t_ab += G([e_a, e_b, t_ab, v_c])                                     angles

and E = sum_i MLP(v_i) + reference energy of the element. The function of the published code, without
redundant work: the first layer of each G is a sum of per-atom, per-bond and per-angle products; features of
edges longer than a bond never change, so their product is computed from the radial basis; the last angle
update, whose result is not used, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.models.card import ModelCard
from uip.models.direct import DirectGradient
from uip.models.fused_chgnet import FusedCHGNet, packed_layers
from uip.models.potential import Output, Potential
from uip.models.trained_chgnet import trained_layers
from uip.nn.basis import AngularBasis, RadialBasis
from uip.nn.fused import is_plain, needs_second_derivatives
from uip.nn.mlp import GatedMLP
from uip.ops.recompute import recomputed
from uip.ops.segment_sum import Segments, gather, make_segments, segment_sum
from uip.parallel.collectives import BONDS, ghost_gather, reverse_edges
from uip.parallel.library import LIBRARY, load_library


@dataclass(frozen=True)
class CHGNetConfig:
    """Architecture of a CHGNet; the defaults are version 0.3.0."""

    num_elements: int = 94
    """Elements 1 (H) .. num_elements are known."""
    channels: int = 64
    """Features of an atom, a bond and an angle."""
    num_layers: int = 4
    """Atom updates; bonds are updated num_layers - 1 times, angles num_layers - 2 times."""
    cutoff: float = 6.0
    """Neighbours of an atom are nearer than this, A."""
    bond_cutoff: float = 3.0
    """Edges that form angles are shorter than this, A."""
    num_radial: int = 31
    """Radial basis functions of a distance."""
    num_angular: int = 31
    """Fourier basis functions of an angle, an odd number."""
    envelope_exponent: int = 8
    """Exponent of the polynomial with which basis functions vanish at the cutoff."""
    num_readout: int = 3
    """Hidden layers of the energy MLP."""
    norm: bool = True
    """Layer normalisation in the gated MLPs and before the readout (false: version 0.2.0)."""
    output_bias: bool = False
    """Bias in W_v and W_e (true: version 0.2.0). It changes edges of any length, so the energy is discontinuous when
    a structure gets its first angle."""
    published_rounding: bool = False
    """Evaluate the envelope as the published code does, float32 rounding included (up to 2e-4 eV/A where bonds end
    near `bond_cutoff`), instead of in the exact form. For published weights, to reproduce their numbers."""
    readout: str = "gradient"
    """"gradient": forces and stress are derivatives of the energy; "direct": predicted (uip/models/direct.py)."""

    def __post_init__(self) -> None:
        if self.readout not in ("gradient", "direct"):
            raise ValueError(f"`readout` must be 'gradient' or 'direct', got {self.readout!r}")
        for name in ("num_elements", "channels", "num_layers", "num_radial", "num_angular"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.num_angular % 2 == 0:
            raise ValueError(f"`num_angular` must be odd (1, and pairs of sine and cosine), got {self.num_angular}")


@dataclass(frozen=True)
class Pairs:
    """Edges between atoms, or angles between bonds: sorted by the rows where their messages are summed."""

    row: Segments
    column: Segments

    @staticmethod
    def of(index: Tensor, num_rows: int, num_columns: int) -> Pairs:
        """`index` (2, M), ascending in its first row."""
        return Pairs(make_segments(index[0], num_rows, is_sorted=True), make_segments(index[1], num_columns))


class AtomUpdate(nn.Module):
    """v_i += W_v sum_j G([v_i, e_ij, v_j]) * w_ij."""

    def __init__(self, config: CHGNetConfig) -> None:
        super().__init__()
        self.message = GatedMLP(3, config.channels, hidden=True, norm=config.norm)
        self.output = nn.Linear(config.channels, config.channels, bias=config.output_bias)

    def edge_part(self, radial: Tensor, embedding: Tensor) -> Tensor:
        """Contribution of initial edge features to the first layer, with bias: (E, num_radial) to (E, 2C)."""
        return F.linear(radial, self.message.weight(1) @ embedding, self.message.first.bias)

    def forward(self, v: Tensor, rows: Tensor, edge: Tensor, weight: Tensor, edges: Pairs) -> Tensor:
        """`v` (N, C); `rows` (R, C): `v` and ghosts; `edge` (E, 2C): contribution of edges to the first layer;
        `weight` (E, C): w_ij."""
        centre = self.message.project(v, 0)
        neighbor = self.message.project(rows, 2)
        message = self.message.message(centre, neighbor, edge, edges.row, edges.column) * weight
        return v + self.output(segment_sum(message, edges.row))


def angle_message(mlp: GatedMLP, e: Tensor, t: Tensor, v: Tensor, bond_centre: Tensor, angles: Pairs) -> Tensor:
    """G([e_a, e_b, t_ab, v_c]) for all angles, (A, C), of bonds `e` (S, C), angles `t` (A, C) and atoms `v` (N, C)."""
    centre = F.linear(v, mlp.weight(3), mlp.first.bias)
    first = mlp.project(e, 0) + centre.index_select(0, bond_centre)
    return mlp.message(first, mlp.project(e, 1), mlp.project(t, 2), angles.row, angles.column)


class BondUpdate(nn.Module):
    """e_a += W_e (s_a + s_reverse(a)) with s_a = u_a * sum_b G([e_a, e_b, t_ab, v_c]) * u_b."""

    def __init__(self, config: CHGNetConfig) -> None:
        super().__init__()
        self.message = GatedMLP(4, config.channels, hidden=True, norm=config.norm)
        self.output = nn.Linear(config.channels, config.channels, bias=config.output_bias)

    def forward(
        self,
        e: Tensor,
        t: Tensor,
        v: Tensor,
        weight: Tensor,
        bond_centre: Tensor,
        reverse_bond: Tensor,
        angles: Pairs,
    ) -> Tensor:
        """`weight` (S, C): u_a."""
        message = angle_message(self.message, e, t, v, bond_centre, angles)
        message = message * gather(weight, angles.column)
        s = segment_sum(message, angles.row) * weight
        return e + self.output(s + reverse_edges(s, reverse_bond, BONDS))


class AngleUpdate(nn.Module):
    """t_ab += G([e_a, e_b, t_ab, v_c])."""

    def __init__(self, config: CHGNetConfig) -> None:
        super().__init__()
        self.message = GatedMLP(4, config.channels, hidden=False, norm=config.norm)

    def forward(self, e: Tensor, t: Tensor, v: Tensor, bond_centre: Tensor, angles: Pairs) -> Tensor:
        return t + angle_message(self.message, e, t, v, bond_centre, angles)


class CHGNet(Potential):
    """Energies and magnetic moments of atoms; formulas: module docstring."""

    name = "chgnet"
    inputs = ("atomic_numbers", "graph_index", "edge_index", "edge_vec", "bond_index", "reverse_bond", "angle_index")
    outputs = ("energy", "forces", "stress", "magmoms")
    readouts = ("magmom", "readout_norm", "readout", "direct")

    def __init__(self, config: CHGNetConfig) -> None:
        super().__init__()
        self.config = config
        self.card = ModelCard()
        self.calibration = None
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
        self.bond_updates = nn.ModuleList(BondUpdate(config) for _ in range(layers - 1))
        self.angle_updates = nn.ModuleList(AngleUpdate(config) for _ in range(layers - 2))
        self.magmom = nn.Linear(channels, 1)
        self.readout_norm = nn.LayerNorm(channels) if config.norm else nn.Identity()
        hidden = [layer for _ in range(config.num_readout) for layer in (nn.Linear(channels, channels), nn.SiLU())]
        self.readout = nn.Sequential(*hidden, nn.Linear(channels, 1))
        self.direct = None if self.conservative else DirectGradient(channels, norm=config.norm)
        self._fused: tuple[object, FusedCHGNet] | None = None

    def pack(self) -> None:
        self.fused()

    def fused(self) -> FusedCHGNet | None:
        """The fused form of `forward` on a CPU; None on a GPU, or within `plain_form`.

        Where weights are trained, or within `second_derivatives`, it has two derivatives. For inference weights are
        packed, when they are first read and when they have changed.
        """
        parameters = list(self.parameters())
        if is_plain() or self.config.channels % 8 or not LIBRARY.is_file():
            return None
        if not all(isinstance(basis, RadialBasis) for basis in (self.edge_basis, self.bond_basis)):
            return None
        if self.dtype not in (torch.float32, torch.float64):
            return None
        if any(p.device.type != "cpu" or p.is_inference() for p in parameters):
            return None
        load_library()
        if needs_second_derivatives() or any(p.requires_grad for p in parameters):
            return FusedCHGNet(self, trained_layers(self))
        rounding = self.edge_basis.published_rounding
        state = [(id(self), p.data_ptr(), p._version, rounding) for p in parameters]
        if self._fused is None or self._fused[0] != state:
            self._fused = state, FusedCHGNet(self, packed_layers(self))
        return self._fused[1]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickle: without packed weights, which are made again."""
        return {**self.__dict__, "_fused": None}

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def bond_cutoff(self) -> float:
        return self.config.bond_cutoff

    @property
    def plain_outputs(self) -> tuple[str, ...]:
        untrained = self.coverage is not None and not self.coverage.magmoms
        return ("node_energy", "edge_grad") if untrained else ("node_energy", "edge_grad", "magmoms")

    @property
    def last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.readout[-1])

    @property
    def parallel(self) -> bool:
        # the bias of version 0.2.0 depends on whether the structure has any angle, which one rank cannot know
        return not self.config.output_bias

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
        fused = self.fused()
        if fused is not None:
            return fused(atomic_numbers, graph_index, edge_index, edge_vec, bond_index, reverse_bond, angle_index)
        species = atomic_numbers[: graph_index.shape[0]] - 1
        distance = torch.linalg.vector_norm(edge_vec, dim=1)
        bond_centre = edge_index[0].index_select(0, bond_index)

        # features that depend only on the geometry
        radial = self.edge_basis(distance)
        weight = self.edge_weight(radial)
        bond_distance = distance.index_select(0, bond_index)
        bond_weight = self.bond_weight(self.bond_basis(bond_distance))
        direction = edge_vec.index_select(0, bond_index) / bond_distance.unsqueeze(1)
        cosine = (direction.index_select(0, angle_index[0]) * direction.index_select(0, angle_index[1])).sum(1)

        # v atoms, e bonds, t angles; e of an edge that is no bond stays W radial
        rows = self.atom_embedding(atomic_numbers - 1)
        v = rows[: species.shape[0]]
        e = start = self.edge_embedding(radial.index_select(0, bond_index))
        t = self.angle_embedding(self.angle_basis(cosine))
        magmoms = v.new_zeros(v.shape[0])
        last = self.config.num_layers - 1
        edges = Pairs.of(edge_index, v.shape[0], atomic_numbers.shape[0])
        angles = Pairs.of(angle_index, e.shape[0], e.shape[0])
        for layer in range(self.config.num_layers):
            update = cast(AtomUpdate, self.atom_updates[layer])
            edge = update.edge_part(radial, self.edge_embedding.weight)
            if layer > 0:
                rows = ghost_gather(v, atomic_numbers)
                e = self._run(self.bond_updates[layer - 1], angles, e, t, v, bond_weight, bond_centre, reverse_bond)
                edge = edge.index_add(0, bond_index, update.message.project(e - start, 1))
                if self.config.output_bias:
                    shift = update.message.project(self._bond_bias(layer), 1)
                    edge = edge + _in_graphs_with_angles(edge, graph_index, edge_index, bond_index, angle_index) * shift
            if 0 < layer < last:
                t = self._run(self.angle_updates[layer - 1], angles, e, t, v, bond_centre)
            if layer == last:
                magmoms = self.magmom(v).squeeze(1).abs()
            v = self._run(update, edges, v, rows, edge, weight)
        features = self.readout[:-1](self.readout_norm(v))
        node_energy = self.last_layer(features).squeeze(1) + self.reference_energy.index_select(0, species)
        if self.direct is None:
            return Output(node_energy, magmoms, features=features)
        edge = self.direct.edge_part(radial, self.edge_embedding.weight)
        edge = edge.index_add(0, bond_index, self.direct.message.project(e - start, 1))
        rows = ghost_gather(v, atomic_numbers)
        edge_grad = self.direct(v, rows, edge, weight, edges.row, edges.column, edge_vec)
        return Output(node_energy, magmoms, edge_grad, features=features)

    def _run(self, update: nn.Module, pairs: Pairs, *arguments: Tensor) -> Tensor:
        """`update(*arguments, pairs)`, with or without storing its intermediates."""

        def function(*tensors: Tensor) -> Tensor:
            result: Tensor = update(*tensors, pairs)
            return result

        return recomputed(function, *arguments, weights=update.parameters()) if self.recompute else function(*arguments)

    def _bond_bias(self, layer: int) -> Tensor:
        """Sum of the biases added to bonds before atom update `layer`, (C,)."""
        return torch.stack([cast(BondUpdate, self.bond_updates[k]).output.bias for k in range(layer)]).sum(0)


def _in_graphs_with_angles(
    like: Tensor, graph_index: Tensor, edge_index: Tensor, bond_index: Tensor, angle_index: Tensor
) -> Tensor:
    """(E, 1): 1 for an edge that is no bond, in a graph that has an angle; 0 for others.

    Version 0.2.0 adds the bias of W_e to every edge of a structure that has an angle; bonds already include it.
    """
    graph = graph_index.index_select(0, edge_index[0])
    angle_graph = graph.index_select(0, bond_index.index_select(0, angle_index[0]))
    num_angles = like.new_zeros(graph_index.shape[0]).index_add(0, angle_graph, like.new_ones(angle_graph.shape))
    has_angle = (num_angles > 0).to(like.dtype).index_select(0, graph)
    return has_angle.index_fill(0, bond_index, 0.0).unsqueeze(1)
