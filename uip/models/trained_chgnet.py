"""CHGNet for training on a CPU: the layers of `uip.models.fused_chgnet` with weights as they are.

Messages have first and second derivatives (`uip.nn.trained`), everything else is plain torch. Derivatives keep the
inputs of messages and compute the rest again, so activation checkpointing would save nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor, nn

from uip.models.fused_chgnet import Layers, Map, bond_biases, parts
from uip.nn.basis import RadialBasis
from uip.nn.trained import TrainedAngleMessage, TrainedEdgeMessage

if TYPE_CHECKING:
    from uip.models.chgnet import CHGNet


def trained_layers(model: CHGNet) -> Layers:
    """The model's layers, for one forward pass."""
    updates, bonds, angles = parts(model)
    embedding, factor = model.edge_embedding.weight, model.edge_weight.weight

    def edges(mlp: nn.Module) -> TrainedEdgeMessage:
        return TrainedEdgeMessage(mlp, model.edge_basis, embedding, factor)  # type: ignore[arg-type]

    layers = [layer for layer in model.readout if isinstance(layer, nn.Linear)]
    return Layers(
        [edges(update.message) for update in updates],
        [update.output for update in updates],
        [TrainedAngleMessage(update.message) for update in bonds],
        [update.output for update in bonds],
        [TrainedAngleMessage(update.message) for update in angles],
        _radial(model.edge_basis, embedding),
        _radial(model.bond_basis, model.bond_weight.weight),
        lambda size: F.linear(model.angle_basis.of_angle(size), model.angle_embedding.weight),
        layers[:-1],
        _one_output(layers[-1]),
        _one_output(model.magmom),
        None if model.direct is None else edges(model.direct.message),
        bond_biases(model),
    )


def _radial(basis: RadialBasis, weight: Tensor) -> Map:
    return lambda distance: F.linear(basis(distance), weight)


def _one_output(layer: nn.Linear) -> Map:
    return lambda x: cast(Tensor, layer(x)).squeeze(1)
