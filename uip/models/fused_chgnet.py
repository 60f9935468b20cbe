"""CHGNet for inference on a CPU: the formulas of `uip.models.chgnet`, with packed weights and fused messages.

For the gradient are kept the inputs of messages, which the kernels compute again, and part of what enters gates
(csrc/gated_message.cpp). Has first derivatives with respect to geometry alone, and the same digits on any number of
threads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.models.potential import Output
from uip.nn.fused import AngleMessage, EdgeMessage, PackedLinear, RadialLinear, angle_lists, edge_lists
from uip.parallel.collectives import BONDS, ghost_gather, reverse_edges

if TYPE_CHECKING:
    from uip.models.chgnet import AngleUpdate, AtomUpdate, BondUpdate, CHGNet


class OneOutput:
    """A linear map to one number, (rows, C) to (rows,)."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach()[0].clone(), layer.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(1) + self.bias


class FusedCHGNet:
    """Copies of a model's weights, packed, and its `forward`. The model must not change meanwhile."""

    @torch.no_grad()
    def __init__(self, model: CHGNet) -> None:
        self.model = model
        updates = [cast("AtomUpdate", update) for update in model.atom_updates]
        bonds = [cast("BondUpdate", update) for update in model.bond_updates]
        angles = [cast("AngleUpdate", update) for update in model.angle_updates]
        embedding, factor = model.edge_embedding.weight, model.edge_weight.weight
        # tables are as good as float32; what the published code rounds can only be computed as it does
        self.tabulated = model.dtype == torch.float32 and not model.edge_basis.published_rounding
        theta = (model.angle_basis, model.angle_embedding.weight) if self.tabulated else None

        def edges(mlp: nn.Module) -> EdgeMessage:
            return EdgeMessage(mlp, model.edge_basis, embedding, factor, tabulated=self.tabulated)  # type: ignore[arg-type]

        self.edges = [edges(update.message) for update in updates]
        self.atom_outputs = [PackedLinear(update.output.weight, update.output.bias) for update in updates]
        self.bonds = [AngleMessage(update.message, None if k else theta) for k, update in enumerate(bonds)]
        self.bond_outputs = [PackedLinear(update.output.weight, update.output.bias) for update in bonds]
        self.angles = [AngleMessage(update.message, None if k else theta) for k, update in enumerate(angles)]
        self.start = RadialLinear(model.edge_basis, embedding, tabulated=self.tabulated)
        self.bond_factor = RadialLinear(model.bond_basis, model.bond_weight.weight, tabulated=self.tabulated)
        self.angle_padding = -model.angle_embedding.in_features % 8
        self.angle_embedding = PackedLinear(F.pad(model.angle_embedding.weight, (0, self.angle_padding)))
        layers = [layer for layer in model.readout if isinstance(layer, nn.Linear)]
        self.readout = [PackedLinear(layer.weight, layer.bias) for layer in layers[:-1]]
        self.energy, self.magmom = OneOutput(layers[-1]), OneOutput(model.magmom)
        self.direct = None if model.direct is None else edges(model.direct.message)
        self.shifts = self._bond_biases(bonds, updates) if model.config.output_bias else None

    def _bond_biases(self, bonds: list[BondUpdate], updates: list[AtomUpdate]) -> list[Tensor]:
        """By layer, (2 C,): what the biases of W_e add to the first layer of edges that carry them."""
        total = torch.zeros_like(bonds[0].output.bias)
        shifts = []
        for bond, (_, update) in zip(bonds, pairwise(updates), strict=True):
            total = total + bond.output.bias
            shifts.append(update.message.project(total.unsqueeze(0), 1)[0])
        return shifts

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
        model = self.model
        species = atomic_numbers[: graph_index.shape[0]] - 1
        bond_centre = edge_index[0].index_select(0, bond_index)
        edges = edge_lists(edge_index, bond_index, graph_index, atomic_numbers)
        angles = angle_lists(angle_index, bond_centre, graph_index)

        distance = torch.linalg.vector_norm(edge_vec, dim=1)
        x, scale = self.edges[0].inputs(distance)
        bond_distance = distance.index_select(0, bond_index)
        factor = self.bond_factor(bond_distance)
        direction = edge_vec.index_select(0, bond_index) / bond_distance.unsqueeze(1)
        cosine = (direction.index_select(0, angle_index[0]) * direction.index_select(0, angle_index[1])).sum(1)

        rows = model.atom_embedding(atomic_numbers - 1)
        v = rows[: species.shape[0]]
        start = self.start(bond_distance)
        e, change, bond = start, None, start.new_zeros(0)
        t = model.angle_basis.angle(cosine)
        if not self.tabulated:
            t = self.angle_embedding(F.pad(model.angle_basis.of_angle(t), (0, self.angle_padding)))
        none = t.new_zeros(0)
        has_angle = None if self.shifts is None else _has_angle(graph_index, bond_centre, angle_index, v)
        magmoms = v.new_zeros(v.shape[0])
        last = model.config.num_layers - 1
        for layer, message in enumerate(self.edges):
            centre = message.centre(v)
            if layer > 0:
                rows = ghost_gather(v, atomic_numbers)
                s = self.bonds[layer - 1](e, t, v, factor, angles) * factor
                update = self.bond_outputs[layer - 1](s + reverse_edges(s, reverse_bond, BONDS))
                change = update if change is None else change + update
                e, bond = start + change, message.bond(change)
                if self.shifts is not None and has_angle is not None:
                    # all edges of such structures but bonds, which carry it already
                    shift = has_angle.unsqueeze(1) * self.shifts[layer - 1]
                    centre, bond = centre + shift, bond - shift.index_select(0, bond_centre)
            if 0 < layer < last:
                t = self.angles[layer - 1](e, t, v, none, angles)
            if layer == last:
                magmoms = self.magmom(v).abs()
            total = message(x, scale, centre, message.neighbor(rows), bond, edges)
            v = v + self.atom_outputs[layer](total)
        features = self._features(v)
        node_energy = self.energy(features) + model.reference_energy.index_select(0, species)
        if self.direct is None or model.direct is None:
            return Output(node_energy, magmoms, features=features)
        neighbor = self.direct.neighbor(ghost_gather(v, atomic_numbers))
        bond = self.direct.bond(e - start if change is None else change)
        each = self.direct(x, scale, self.direct.centre(v), neighbor, bond, edges, summed=False)
        strength = (each * model.direct.output.weight).sum(1) / distance
        return Output(node_energy, magmoms, strength.unsqueeze(1) * edge_vec, features=features)

    def _features(self, v: Tensor) -> Tensor:
        x = self.model.readout_norm(v)
        for layer in self.readout:
            x = F.silu(layer(x))
        return x


def _has_angle(graph_index: Tensor, bond_centre: Tensor, angle_index: Tensor, like: Tensor) -> Tensor:
    """(N,): 1 for atoms of structures that have an angle."""
    atom = bond_centre.index_select(0, angle_index[0])
    graph = graph_index.index_select(0, atom)
    count = like.new_zeros(graph_index.shape[0]).index_add(0, graph, like.new_ones(graph.shape))
    return (count > 0).to(like.dtype).index_select(0, graph_index)
