"""AllScAIP (Qu, Wood, Krishnapriyan, Ulissi, arXiv:2603.06567) as a function of edge vectors.

Letters: N atoms, S bonds (edges to soft nearest neighbours, `uip.ops.soft_rank`), T = N + S tokens, K largest
number of bonds of an atom, H channels. Every atom i has a row of tokens: its own, v_i, and t_ij for each bond. Per
block, where each attention and FFN reads normalised tokens and its result is multiplied by a learned scalar,

    row i: tokens attend to each other, logits + ln w_ij                 source neighbourhood
    row j: the tokens t_ij of all i attend to each other likewise        destination neighbourhood
    t_ij += FFN(t_ij)
    v_i  += attention over all atoms of the structure;  v_i += FFN(v_i)

and E = sum_i MLP(v_i). Row j consists of the tokens of j's reversed bonds: `reverse_edges` permutes them, also between
ranks. Tokens are stored without padding. The last block computes atom tokens only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.models.card import ModelCard
from uip.models.potential import Output, Potential
from uip.models.token_embedding import ORDER_DEGREE, Bonds, TokenEmbedding
from uip.nn.spherical import SphericalHarmonics
from uip.nn.token_layers import FeedForward, Geometry, InferenceOptions, RowAttention
from uip.ops.attention import NUM_FREQUENCIES, Radial, attend_double_backward
from uip.ops.soft_rank import SoftNearest, envelope_coordinate, log_envelope, soft_rank
from uip.parallel.collectives import BONDS, attend, reverse_edges
from uip.parallel.library import load_library

INPUTS = (
    *("atomic_numbers", "graph_index", "edge_index", "edge_vec", "bond_index", "reverse_bond"),
    *("nearest_edges", "bond_slots", "charge", "spin"),
)


@dataclass(frozen=True)
class AllScAIPConfig:
    """Architecture of an AllScAIP; the defaults are size "md" as published (`SIZES` has the others)."""

    num_elements: int = 109
    """Elements 1 (H) .. num_elements have weights."""
    elements: tuple[int, ...] = ()
    """Atomic numbers of the training data. Empty: all."""
    channels: int = 640
    """Features of a token (an atom or a bond); a multiple of `num_heads`."""
    num_layers: int = 10
    """Blocks of neighbourhood attention, feed-forward networks and all-to-all attention."""
    num_heads: int = 10
    """Attention heads."""
    node_attention: bool = True
    """All-to-all attention ("No"); without it the receptive field is 12 A per layer."""
    angular: bool = False
    """Legendre angular encoding ("An") in the neighbourhood attention."""
    angular_channels: tuple[int, ...] = (20, 10, 4, 10, 20)
    """Channels per head for each degree l = 0, 1, ..."""
    radial: bool = False
    """Radial bias ("Si", ERoPE) in the all-to-all attention."""
    sink: bool = False
    """A key of value 0 with a learned logit per head in the all-to-all attention (`uip.ops.attention`), so that the
    sum of attention weights depends on distances. Not published."""
    element_scale: float = 1e-3
    """Initial element embeddings are uniform between -element_scale and element_scale."""
    smooth: bool = True
    """Weight neighbours in the bond-orientational order with their envelope. False, as for published weights: with 1
    or 0, so that energy and forces are discontinuous when a neighbour enters or leaves."""
    num_radial: int = 512
    """Number of Gaussians of the distance."""
    k: float = 30.0
    """Approximate largest number of bonds of an atom (uip/ops/soft_rank.py)."""
    nearest: int = 50
    """Number of candidates for the bonds of an atom: its nearest neighbours and itself."""
    cutoff: float = 6.0
    """Bonds are shorter than this, A."""
    readout: str = "gradient"
    """"gradient": forces and stress are derivatives of the energy; "direct": forces are predicted, stress is not."""

    def __post_init__(self) -> None:
        if self.readout not in ("gradient", "direct"):
            raise ValueError(f"`readout` must be 'gradient' or 'direct', got {self.readout!r}")
        if self.channels % self.num_heads:
            raise ValueError(f"`channels` must be a multiple of `num_heads`, got {self.channels} and {self.num_heads}")
        if any(not 1 <= number <= self.num_elements for number in self.elements):
            raise ValueError(f"`elements` must lie within 1 .. num_elements = {self.num_elements}, got {self.elements}")
        if self.angular and sum(self.angular_channels) != self.channels // self.num_heads:
            raise ValueError(
                f"`angular_channels` must add up to channels / num_heads = {self.channels // self.num_heads}, "
                f"got {list(self.angular_channels)}"
            )
        if self.radial and not self.node_attention:
            raise ValueError("`radial` is a bias of the all-to-all attention; it needs `node_attention = true`")
        if self.sink and not self.node_attention:
            raise ValueError("`sink` is a key of the all-to-all attention; it needs `node_attention = true`")
        if not self.element_scale > 0:
            raise ValueError(f"`element_scale` must be positive, got {self.element_scale}; published: 1e-3")


SIZES: dict[str, dict[str, int]] = {
    "sm": {"channels": 512, "num_layers": 6, "num_heads": 8},
    "md": {"channels": 640, "num_layers": 10, "num_heads": 10},
    "lg": {"channels": 1024, "num_layers": 8, "num_heads": 16},
    "xlg": {"channels": 2048, "num_layers": 12, "num_heads": 32},
}


@dataclass(frozen=True)
class GlobalGeometry:
    """Geometry of all atoms, for all-to-all attention; fields as in `uip.schema` and `uip.ops.attention.Radial`."""

    graph_index: Tensor
    positions: Tensor | None = None
    strain: Tensor | None = None
    cell: Tensor | None = None
    pbc: Tensor | None = None

    def radial(self, weight: Tensor | None) -> Radial | None:
        if weight is None:
            return None
        assert self.positions is not None
        assert self.cell is not None
        assert self.pbc is not None
        return Radial(weight, self.positions, self.strain, self.cell, self.pbc)


class NodeAttention(nn.Module):
    """All-to-all attention: every atom attends to all atoms of its structure; (N, H) to their update, (N, H)."""

    def __init__(self, config: AllScAIPConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.norm = nn.RMSNorm(config.channels)
        self.qkv = nn.Linear(config.channels, 3 * config.channels)
        self.output = nn.Linear(config.channels, config.channels)
        self.scale = nn.Parameter(torch.tensor(1.0 / config.num_layers))
        start = torch.full((config.num_heads, NUM_FREQUENCIES), 1.0 / NUM_FREQUENCIES)
        self.radial_weight = nn.Parameter(start) if config.radial else None
        self.sink = nn.Parameter(torch.zeros(config.num_heads)) if config.sink else None

    def forward(self, v: Tensor, global_geometry: GlobalGeometry) -> Tensor:
        query, key, value = self.qkv(self.norm(v)).chunk(3, dim=1)
        attention = attend_double_backward if self.training else attend
        radial = global_geometry.radial(self.radial_weight)
        out = attention(query, key, value, global_geometry.graph_index, self.heads, radial, self.sink)
        return self.scale * self.output(out)


class Block(nn.Module):
    """One layer; formulas: module docstring."""

    def __init__(self, config: AllScAIPConfig) -> None:
        super().__init__()
        channels, scale = config.channels, 1.0 / config.num_layers
        row = (channels, config.num_heads, config.angular_channels, scale)
        self.source, self.destination = RowAttention(*row), RowAttention(*row)
        self.bond_ffn = FeedForward(channels, scale)
        self.node = NodeAttention(config) if config.node_attention else None
        self.node_ffn = FeedForward(channels, scale)

    def forward(
        self, v: Tensor, t: Tensor, geometry: Geometry, reverse: Tensor, global_geometry: GlobalGeometry
    ) -> tuple[Tensor, Tensor]:
        """Atom tokens (N, H) and bond tokens (S, H) to updated ones; `reverse`: `reverse_bond` of `uip.schema`."""
        v, t = self.source(v, t, geometry)
        v, t = self.destination(v, reverse_edges(t, reverse, BONDS), geometry)
        t = self.bond_ffn(reverse_edges(t, reverse, BONDS), geometry)
        return self._atoms(v, geometry, global_geometry), t

    def forward_atoms(
        self, v: Tensor, t: Tensor, geometry: Geometry, reverse: Tensor, global_geometry: GlobalGeometry
    ) -> Tensor:
        """Atom tokens (N, H) only; for the last block."""
        v, t = self.source(v, t, geometry)
        v = self.destination.forward_atoms(v, reverse_edges(t, reverse, BONDS), geometry)
        return self._atoms(v, geometry, global_geometry)

    def _atoms(self, v: Tensor, geometry: Geometry, global_geometry: GlobalGeometry) -> Tensor:
        if self.node is not None:
            v = v + self.node(v, global_geometry)
        result: Tensor = self.node_ffn(v, geometry)
        return result


class AllScAIP(Potential):
    """Energies of atoms; formulas: module docstring."""

    name = "allscaip"
    readouts = ("energy", "force")
    activation_budget = 6e9
    bfloat16_products = False
    soft: SoftNearest
    energy_scale: Tensor

    def __init__(self, config: AllScAIPConfig) -> None:
        super().__init__()
        self.config = config
        self.card = ModelCard()
        self.calibration = None
        self.soft = SoftNearest(k=config.k, nearest=config.nearest, cutoff=config.cutoff)
        self.register_buffer("reference_energy", torch.zeros(config.num_elements + 1, dtype=torch.float64))
        self.register_buffer("energy_scale", torch.ones(()))
        self.harmonics = SphericalHarmonics(ORDER_DEGREE)
        self.embedding = TokenEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.energy = Readout(config, 1)
        self.force = None if self.conservative else Readout(config, 3)
        self.apply(_initialise)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AllScAIP:
        """Reference energies are thousands of eV and stay in float64 at any precision."""
        exact = self.reference_energy
        super()._apply(fn, recurse)
        self.reference_energy = exact.to(self.reference_energy.device)
        return self

    @property
    def supported_elements(self) -> tuple[int, ...]:
        return tuple(self.config.elements) or super().supported_elements

    @property
    def cutoff(self) -> float:
        """A; of edges. Bonds are shorter than `config.cutoff`, but depend on neighbours beyond it."""
        return self.soft.reach

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("energy", "forces", "stress") if self.conservative else ("energy", "forces")

    @property
    def plain_outputs(self) -> tuple[str, ...]:
        if not self.conservative:
            return ("node_energy", "forces")
        return ("node_energy", "edge_grad") + (("position_grad", "strain_grad") if self.config.radial else ())

    @property
    def last_layer(self) -> nn.Linear:
        return self.energy.second

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*INPUTS, "positions", "cell", "pbc") if self.config.radial else INPUTS

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        nearest_edges: Tensor,
        bond_slots: Tensor,
        charge: Tensor,
        spin: Tensor,
        positions: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        strain: Tensor | None = None,
    ) -> Output:
        """Tensors as in `uip.schema`; `strain` as in `uip.ops.attention.Radial`."""
        species = atomic_numbers[: graph_index.shape[0]]
        bonds = self._bonds(edge_index, edge_vec, bond_index, reverse_bond, nearest_edges)
        inference = self._inference(bonds.log_weight)
        num_degrees = len(self.config.angular_channels) if self.config.angular else 0
        geometry = Geometry(
            bonds.log_weight, bonds.direction, bond_slots, num_degrees, inference, recompute=self.recompute
        )
        global_geometry = GlobalGeometry(graph_index, positions, strain, cell, pbc)
        recompute = self.recompute if inference is None else not inference.keep
        v, t = self.embedding(species, graph_index, charge, spin, bonds, recompute=recompute)
        *blocks, last = (cast(Block, block) for block in self.blocks)
        for block in blocks:
            v, t = block(v, t, geometry, reverse_bond, global_geometry)
        v = last.forward_atoms(v, t, geometry, reverse_bond, global_geometry)
        features = self.energy.features(v)
        node_energy = self.last_layer(features).squeeze(1) * self.energy_scale
        node_energy = node_energy.to(torch.float64) + self.reference_energy.index_select(0, species)
        forces = None if self.force is None else self.force(v) * self.energy_scale
        return Output(node_energy, forces=forces, features=features)

    def _inference(self, log_weight: Tensor) -> InferenceOptions | None:
        """Options of the layers; None if weights require gradients or second derivatives are needed."""
        if torch.is_grad_enabled() and (self.training or any(weight.requires_grad for weight in self.parameters())):
            return None
        load_library()
        gradient = torch.is_grad_enabled() and self.conservative
        num_bonds = log_weight.shape[0]
        if not isinstance(num_bonds, int):  # during export sizes are symbolic
            return InferenceOptions(gradient and self.activation_budget > 0, self.bfloat16_products)
        numbers = (11 * self.config.num_layers * self.config.channels + 3 * self.config.num_radial) * num_bonds
        return InferenceOptions(
            gradient and numbers * log_weight.element_size() <= self.activation_budget, self.bfloat16_products
        )

    def _bonds(
        self, edge_index: Tensor, edge_vec: Tensor, bond_index: Tensor, reverse_bond: Tensor, nearest_edges: Tensor
    ) -> Bonds:
        length = torch.linalg.vector_norm(edge_vec, dim=1)
        far = 2.0 * self.soft.reach  # of padding: contributes nothing to a rank
        slots = torch.where(nearest_edges < 0, length.shape[0], nearest_edges)
        nearest = F.pad(length, (0, 1), value=far).index_select(0, slots.flatten()).view(slots.shape)
        centre = edge_index[0].index_select(0, bond_index)
        distance = length.index_select(0, bond_index)
        rank = soft_rank(distance, nearest.index_select(0, centre), self.soft.sigma)
        reverse_rank = reverse_edges(rank.unsqueeze(1), reverse_bond, BONDS).squeeze(1)
        direction = edge_vec.index_select(0, bond_index) / distance.unsqueeze(1)
        return Bonds(
            centre=centre,
            distance=distance,
            direction=direction,
            harmonics=self.harmonics(direction),
            log_weight=log_envelope(envelope_coordinate(rank, reverse_rank, distance, self.soft)),
        )


class Readout(nn.Module):
    """W2 GELU(W1 norm(v)): (N, H) to (N, n)."""

    def __init__(self, config: AllScAIPConfig, size: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.channels)
        self.first = nn.Linear(config.channels, 2 * config.channels)
        self.second = nn.Linear(2 * config.channels, size)

    def forward(self, v: Tensor) -> Tensor:
        return self.second(self.features(v))

    def features(self, v: Tensor) -> Tensor:
        """(N, H) to (N, 2 H)."""
        return F.gelu(self.first(self.norm(v)))


def _initialise(module: nn.Module) -> None:
    """Initialisation as published: small element embeddings, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, TokenEmbedding):
        nn.init.uniform_(module.element.weight, -module.element_scale, module.element_scale)
