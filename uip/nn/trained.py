"""CHGNet's messages in the form that training runs on a CPU: weights as they are, and one op of libuip that has first
and second derivatives, also with respect to weights (csrc/trained_message.h).

The modules stay the definition. The objects here have the interface of those in `uip.nn.fused`, and are made anew in
each step. Their derivatives read nothing but the inputs of messages. A third derivative, or a derivative of gradients
with respect to weights, is an error.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.basis import RadialBasis
from uip.nn.fused import Lists, centred
from uip.nn.mlp import GatedMLP

VECTOR = 16
"""Inputs are padded to a multiple of it: the float32 numbers of the longest vectors."""


class TrainedMessage:
    """G(first[row] + second[column] + third[slot] + x W) f of a `GatedMLP`; f of columns, or f = x W_f, or 1."""

    def __init__(self, mlp: GatedMLP, inputs: Tensor) -> None:
        """`inputs` (2 C, K): W; (3 C, K): W and W_f."""
        self.norm = isinstance(mlp.core_norm, nn.LayerNorm)
        self.inputs, (matrices, vectors) = inputs, mlp.packed(inputs)
        if self.norm:
            # the kernels take means over channels as zero
            assert all(norm.eps == 1e-5 for norm in (mlp.core_norm, mlp.gate_norm))  # csrc/trained_tile.h
            bias, rest = vectors.split([1, 2], dim=1)
            matrices = matrices - matrices.mean(1, keepdim=True) if mlp.hidden else matrices
            vectors = torch.cat([bias - bias.mean(2, keepdim=True), rest], dim=1)
        self.matrices, self.vectors = matrices, vectors

    def __call__(
        self, x: Tensor, totals: tuple[Tensor, Tensor, Tensor], factor: Tensor, lists: Lists, *, summed: bool
    ) -> Tensor:
        """(rows, C), or (M, C) if not `summed`; `factor` (columns, C), or (0,)."""
        weights = (self.inputs, self.matrices, self.vectors)
        y: Tensor = torch.ops.uip.trained_message(x, *totals, factor, *weights, lists.tensors(), self.norm, summed)
        return y


class TrainedEdgeMessage:
    """As `EdgeMessage`.

    Args:
        mlp: of parts v_i, e_ij, v_j.
        embedding: (C, n), from radial functions to e_ij.
        factor: (C, n), to w_ij.
    """

    def __init__(self, mlp: GatedMLP, basis: RadialBasis, embedding: Tensor, factor: Tensor) -> None:
        self.mlp, self.basis = mlp, basis
        self.padding = -embedding.shape[1] % VECTOR
        columns = torch.cat([mlp.weight(1) @ embedding, factor])
        self.message = TrainedMessage(mlp, F.pad(columns, (0, self.padding)))

    def inputs(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Radial functions (E, K), zero where padded, and (0,)."""
        x, scale = self.basis.split(distance)
        frequencies = F.pad(self.basis.frequencies, (0, self.padding))
        return torch.sin(x.unsqueeze(1) * frequencies) * scale.unsqueeze(1), distance.new_zeros(0)

    def centre(self, v: Tensor) -> Tensor:
        return F.linear(v, self.mlp.weight(0), self.mlp.first.bias)

    def bond(self, change: Tensor) -> Tensor:
        return self.mlp.project(change, 1)

    def neighbor(self, rows: Tensor) -> Tensor:
        return self.mlp.project(rows, 2)

    def __call__(
        self, x: Tensor, scale: Tensor, centre: Tensor, rows: Tensor, bond: Tensor, lists: Lists, *, summed: bool = True
    ) -> Tensor:
        """(N, C), or (E, C) if not `summed`."""
        return self.message(x, (centre, rows, bond), scale, lists, summed=summed)


class TrainedAngleMessage:
    """As `AngleMessage`, of angle features t (A, C)."""

    def __init__(self, mlp: GatedMLP) -> None:
        self.hidden = mlp.hidden
        weight: Tensor = mlp.first.weight
        self.bias: Tensor = mlp.first.bias
        if not mlp.hidden and isinstance(mlp.core_norm, nn.LayerNorm):  # the norm follows at once
            weight, self.bias = centred(weight, 2), centred(self.bias, 2)
        self.first, self.second, angle, self.centre = weight.split(mlp.channels, dim=1)
        self.message = TrainedMessage(mlp, angle)

    def __call__(self, e: Tensor, t: Tensor, v: Tensor, factor: Tensor, lists: Lists) -> Tensor:
        """(S, C) of bonds with `factor` (S, C); of one layer t + G, (A, C)."""
        totals = (F.linear(e, self.first), F.linear(e, self.second), F.linear(v, self.centre, self.bias))
        y = self.message(t, totals, factor, lists, summed=self.hidden)
        return y if self.hidden else t + y
