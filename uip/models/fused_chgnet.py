"""CHGNet on a CPU: the formulas of `uip.models.chgnet`, with fused messages.

For inference weights are packed, and there are first derivatives with respect to geometry alone; kept for them are the
inputs of messages and part of what enters gates (csrc/gated_message.cpp). For training: `uip.models.trained_chgnet`.
Both have the same digits on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.models.potential import Output
from uip.nn.fused import AngleMessage, EdgeMessage, Lists, PackedLinear, RadialLinear, angle_lists, edge_lists
from uip.parallel.collectives import BONDS, ghost_gather, reverse_edges

if TYPE_CHECKING:
    from uip.models.chgnet import AngleUpdate, AtomUpdate, BondUpdate, CHGNet


class OneOutput:
    """A linear map to one number, (rows, C) to (rows,)."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach()[0].clone(), layer.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(1) + self.bias


class Edges(Protocol):
    """`EdgeMessage`, or what trains."""

    def inputs(self, distance: Tensor) -> tuple[Tensor, Tensor]: ...

    @property
    def centre(self) -> Map: ...

    @property
    def bond(self) -> Map: ...

    @property
    def neighbor(self) -> Map: ...

    def __call__(
        self, x: Tensor, scale: Tensor, centre: Tensor, rows: Tensor, bond: Tensor, lists: Lists, *, summed: bool = True
    ) -> Tensor: ...


Map = Callable[[Tensor], Tensor]
Angles = Callable[[Tensor, Tensor, Tensor, Tensor, Lists], Tensor]


@dataclass(frozen=True)
class Layers:
    """The parts of a CHGNet that have a fused form, in order of layers."""

    edges: Sequence[Edges]
    atom_outputs: Sequence[Map]
    bonds: Sequence[Angles]
    bond_outputs: Sequence[Map]
    angles: Sequence[Angles]
    start: Map
    """(S,) distances to (S, C), as the next."""
    bond_factor: Map
    angle: Map
    """(A,) sizes of angles to what the messages take."""
    readout: Sequence[Map]
    energy: Map
    """(N, C) to (N,), as the next."""
    magmom: Map
    direct: Edges | None
    shifts: Sequence[Tensor] | None
    """By layer, (2 C,): what the biases of W_e add to the first layer of edges that carry them."""


@torch.no_grad()
def packed_layers(model: CHGNet) -> Layers:
    """Copies of the model's weights, packed for inference."""
    updates, bonds, angles = parts(model)
    embedding, factor = model.edge_embedding.weight, model.edge_weight.weight
    # tables are as good as float32; what the published code rounds can only be computed as it does
    tabulated = model.dtype == torch.float32 and not model.edge_basis.published_rounding
    theta = (model.angle_basis, model.angle_embedding.weight) if tabulated else None
    angle_padding = -model.angle_embedding.in_features % 8
    angle_embedding = PackedLinear(F.pad(model.angle_embedding.weight, (0, angle_padding)))

    def edges(mlp: nn.Module) -> EdgeMessage:
        return EdgeMessage(mlp, model.edge_basis, embedding, factor, tabulated=tabulated)  # type: ignore[arg-type]

    def angle(size: Tensor) -> Tensor:
        return angle_embedding(F.pad(model.angle_basis.of_angle(size), (0, angle_padding)))

    layers = [layer for layer in model.readout if isinstance(layer, nn.Linear)]
    return Layers(
        [edges(update.message) for update in updates],
        [PackedLinear(update.output.weight, update.output.bias) for update in updates],
        [AngleMessage(update.message, None if k else theta) for k, update in enumerate(bonds)],
        [PackedLinear(update.output.weight, update.output.bias) for update in bonds],
        [AngleMessage(update.message, None if k else theta) for k, update in enumerate(angles)],
        RadialLinear(model.edge_basis, embedding, tabulated=tabulated),
        RadialLinear(model.bond_basis, model.bond_weight.weight, tabulated=tabulated),
        _itself if tabulated else angle,
        [PackedLinear(layer.weight, layer.bias) for layer in layers[:-1]],
        OneOutput(layers[-1]),
        OneOutput(model.magmom),
        None if model.direct is None else edges(model.direct.message),
        bond_biases(model),
    )


def _itself(x: Tensor) -> Tensor:
    return x


def parts(model: CHGNet) -> tuple[list[AtomUpdate], list[BondUpdate], list[AngleUpdate]]:
    """The updates of the model's layers."""
    return (
        [cast("AtomUpdate", update) for update in model.atom_updates],
        [cast("BondUpdate", update) for update in model.bond_updates],
        [cast("AngleUpdate", update) for update in model.angle_updates],
    )


def bond_biases(model: CHGNet) -> list[Tensor] | None:
    """`Layers.shifts`, of a model that has such biases."""
    if not model.config.output_bias:
        return None
    updates, bonds, _ = parts(model)
    total = torch.zeros_like(bonds[0].output.bias)
    shifts = []
    for bond, (_, update) in zip(bonds, pairwise(updates), strict=True):
        total = total + bond.output.bias
        shifts.append(update.message.project(total.unsqueeze(0), 1)[0])
    return shifts


class FusedCHGNet:
    """`forward` of a model with `Layers` made from its weights."""

    def __init__(self, model: CHGNet, layers: Layers) -> None:
        self.model, self.layers = model, layers

    def __call__(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Output:
        """As `CHGNet.forward`."""
        model, layers = self.model, self.layers
        species = atomic_numbers[: graph_index.shape[0]] - 1
        bond_centre = edge_index[0].index_select(0, bond_index)
        edges = edge_lists(edge_index, bond_index, graph_index, atomic_numbers)
        angles = angle_lists(angle_index, bond_centre, graph_index)

        distance = torch.linalg.vector_norm(edge_vec, dim=1)
        x, scale = layers.edges[0].inputs(distance)
        bond_distance = distance.index_select(0, bond_index)
        factor = layers.bond_factor(bond_distance)
        direction = edge_vec.index_select(0, bond_index) / bond_distance.unsqueeze(1)
        cosine = (direction.index_select(0, angle_index[0]) * direction.index_select(0, angle_index[1])).sum(1)

        rows = model.atom_embedding(atomic_numbers - 1)
        v = rows[: species.shape[0]]
        start = layers.start(bond_distance)
        e, change, bond = start, None, start.new_zeros(0)
        t = layers.angle(model.angle_basis.angle(cosine))
        none = t.new_zeros(0)
        has_angle = None if layers.shifts is None else _has_angle(graph_index, bond_centre, angle_index, v)
        magmoms = v.new_zeros(v.shape[0])
        last = model.config.num_layers - 1
        for layer, message in enumerate(layers.edges):
            centre = message.centre(v)
            if layer > 0:
                rows = ghost_gather(v, atomic_numbers)
                s = layers.bonds[layer - 1](e, t, v, factor, angles) * factor
                update = layers.bond_outputs[layer - 1](s + reverse_edges(s, reverse_bond, BONDS))
                change = update if change is None else change + update
                e, bond = start + change, message.bond(change)
                if layers.shifts is not None and has_angle is not None:
                    # all edges of such structures but bonds, which carry it already
                    shift = has_angle.unsqueeze(1) * layers.shifts[layer - 1]
                    centre, bond = centre + shift, bond - shift.index_select(0, bond_centre)
            if 0 < layer < last:
                t = layers.angles[layer - 1](e, t, v, none, angles)
            if layer == last:
                magmoms = layers.magmom(v).abs()
            total = message(x, scale, centre, message.neighbor(rows), bond, edges)
            v = v + layers.atom_outputs[layer](total)
        features = self._features(v)
        node_energy = layers.energy(features) + model.reference_energy.index_select(0, species)
        if layers.direct is None or model.direct is None:
            return Output(node_energy, magmoms, features=features)
        neighbor = layers.direct.neighbor(ghost_gather(v, atomic_numbers))
        bond = layers.direct.bond(e - start if change is None else change)
        each = layers.direct(x, scale, layers.direct.centre(v), neighbor, bond, edges, summed=False)
        strength = (each * model.direct.output.weight).sum(1) / distance
        return Output(node_energy, magmoms, strength.unsqueeze(1) * edge_vec, features=features)

    def _features(self, v: Tensor) -> Tensor:
        x = self.model.readout_norm(v)
        for layer in self.layers.readout:
            x = F.silu(layer(x))
        return x


def _has_angle(graph_index: Tensor, bond_centre: Tensor, angle_index: Tensor, like: Tensor) -> Tensor:
    """(N,): 1 for atoms of structures that have an angle."""
    atom = bond_centre.index_select(0, angle_index[0])
    graph = graph_index.index_select(0, atom)
    count = like.new_zeros(graph_index.shape[0]).index_add(0, graph, like.new_ones(graph.shape))
    return (count > 0).to(like.dtype).index_select(0, graph_index)
