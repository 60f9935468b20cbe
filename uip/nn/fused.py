"""CHGNet's messages and linear maps in the form that inference runs: packed weights and ops of libuip.

    G(first[row] + second[column] + third[slot] + inputs W) * factor        (uip/nn/mlp.py, csrc/gated_message.cpp)

The modules used in training stay the definition. Their weights are copied and packed here: the means over channels that
layer normalisation removes are removed from the weights before it, constants are folded, and matrices (K, N) are stored
in panels (N / L, K, L) of 64 bytes, the order in which the kernels read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.basis import RadialBasis
from uip.nn.mlp import GatedMLP

EDGES, BONDS, ANGLES, EDGE_ROWS = 0, 1, 2, 3
"""Kinds of messages, `uip::MessageKind` in csrc/message_kernels.h."""

_plain_only = False


@contextmanager
def plain_form() -> Iterator[None]:
    """Within, models run the modules that define them, which can be differentiated twice and need no libuip."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before


def is_plain() -> bool:
    return _plain_only


def panels(matrix: Tensor) -> Tensor:
    """(K, N) to (N / L, K, L), L = 64 bytes; N is padded with zeros."""
    width = 64 // matrix.element_size()
    depth, columns = matrix.shape
    padded = F.pad(matrix, (0, -columns % width))
    return padded.view(depth, -1, width).transpose(0, 1).contiguous()


def centred(weight: Tensor, parts: int) -> Tensor:
    """Rows of `weight` (parts C, ...) minus their mean over the C of each part."""
    halves = weight.view(parts, -1, *weight.shape[1:])
    return (halves - halves.mean(1, keepdim=True)).reshape(weight.shape)


class PackedLinear:
    """x W + b of rows, on any number of threads the same to the last digit.

    Args:
        weight: (outputs, inputs), both multiples of 8.
        bias: (outputs,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs = weight.shape[0]
        self.weights = [panels(weight.T), panels(weight), weight.new_zeros(0) if bias is None else bias.clone()]

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, inputs) to (rows, outputs)."""
        y: Tensor = torch.ops.uip.packed_linear(x, self.weights, self.outputs)
        return y


@dataclass(frozen=True)
class Lists:
    """Which messages there are."""

    row: Tensor
    """(M,) where a message is summed, sorted."""
    column: Tensor
    """(M,) where it comes from."""
    slot: Tensor
    """(M,) row of `third`, -1 for none; or (0,)."""
    offsets: Tensor
    """(N + 1,) first message of each centre."""
    column_offsets: Tensor
    """(R + 1,) as offsets of `by_column`; of edges, else (0,)."""
    by_column: Tensor
    """(M,) messages in the order of their columns; of edges, else (0,)."""

    def tensors(self) -> list[Tensor]:
        return [self.row, self.column, self.slot, self.offsets, self.column_offsets, self.by_column]


def edge_lists(edge_index: Tensor, bond_index: Tensor, atoms: Tensor, rows: Tensor) -> Lists:
    """Of all edges; `atoms` (N) and `rows` (R) say how many there are."""
    centre, neighbor = edge_index[0], edge_index[1]
    ops = torch.ops.uip
    return Lists(
        centre,
        neighbor,
        ops.inverse_index(bond_index, centre),
        ops.segment_offsets(centre, atoms),
        *ops.sort_columns(neighbor, rows),
    )


def angle_lists(angle_index: Tensor, bond_centre: Tensor, atoms: Tensor) -> Lists:
    """Of all angles, of bonds (S,) with their centres."""
    none = angle_index.new_zeros(0)
    centre = bond_centre.index_select(0, angle_index[0])
    offsets = torch.ops.uip.segment_offsets(centre, atoms)
    return Lists(angle_index[0], angle_index[1], none, offsets, none, none)


class PackedMessage:
    """A `GatedMLP`, packed.

    Args:
        input_weight: (2 C, K), from inputs to the first layer.
        factor_weight: (C, K), from the same inputs to the factor; None: factors come from elsewhere.
        frequencies: (K,) f_k / pi; with `factor_weight`.
        num_radial: how many of K are radial functions; one more is the constant 1.
    """

    def __init__(
        self,
        mlp: GatedMLP,
        input_weight: Tensor,
        *,
        factor_weight: Tensor | None = None,
        frequencies: Tensor | None = None,
        num_radial: int = 0,
    ) -> None:
        self.channels, self.num_radial = mlp.channels, num_radial
        self.norm = isinstance(mlp.core_norm, nn.LayerNorm)
        back = input_weight if factor_weight is None else torch.cat([input_weight, factor_weight])
        self.weights = [
            panels(input_weight.T),
            panels(back),
            *self._affine(mlp.core_norm),
            *self._affine(mlp.gate_norm),
        ]
        self.weights[2:6] = [value.to(input_weight) for value in self.weights[2:6]]
        if isinstance(mlp.core, nn.Linear) and isinstance(mlp.gate, nn.Linear):
            core, gate = self._second(mlp.core), self._second(mlp.gate)
            self.weights += [panels(core[0].T), core[1], panels(gate[0].T), gate[1], panels(core[0]), panels(gate[0])]
        if factor_weight is not None and frequencies is not None:
            self.weights += [frequencies, panels(factor_weight.T)]

    def _second(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        if not self.norm:
            return layer.weight, layer.bias.clone()
        return centred(layer.weight, 1), centred(layer.bias, 1)

    def _affine(self, norm: nn.Module) -> tuple[Tensor, Tensor]:
        if isinstance(norm, nn.LayerNorm):
            assert norm.eps == 1e-5  # csrc/message_kernels.inc
            return norm.weight.clone(), norm.bias.clone()
        return torch.ones(self.channels), torch.zeros(self.channels)

    def call(
        self, kind: int, lists: Lists, x: Tensor, scale: Tensor, totals: tuple[Tensor, Tensor, Tensor], factor: Tensor
    ) -> Tensor:
        lists_weights = (lists.tensors(), self.weights)
        y: Tensor = torch.ops.uip.gated_message(
            kind, self.norm, self.num_radial, x, scale, *totals, factor, *lists_weights
        )
        return y


class EdgeMessage:
    """sum_j G([v_i, e_ij, v_j]) * w_ij of atoms i, or each G * w for itself; e_ij and w_ij from distances.

    Args:
        mlp: of parts v_i, e_ij, v_j.
        embedding: (C, n), from radial functions to e_ij.
        factor: (C, n), to w_ij.
    """

    def __init__(self, mlp: GatedMLP, basis: RadialBasis, embedding: Tensor, factor: Tensor) -> None:
        num_radial = embedding.shape[1]
        padding = -(num_radial + 1) % 16
        radial = torch.cat([mlp.weight(1) @ embedding, mlp.first.bias.unsqueeze(1)], dim=1)
        self.message = PackedMessage(
            mlp,
            F.pad(radial, (0, padding)),
            factor_weight=F.pad(factor, (0, 1 + padding)),
            frequencies=F.pad(basis.frequencies / math.pi, (0, 1 + padding)),
            num_radial=num_radial,
        )
        self.centre, self.bond, self.neighbor = (PackedLinear(mlp.weight(part)) for part in range(3))

    def __call__(
        self, x: Tensor, scale: Tensor, centre: Tensor, rows: Tensor, bond: Tensor, lists: Lists, *, summed: bool = True
    ) -> Tensor:
        """(N, C), or (E, C) if not `summed`.

        Args:
            x, scale: (E,), of `RadialBasis`: e_ij and w_ij are linear in sin(f x) scale.
            centre: (N, 2 C), rows: (R, 2 C): products of atoms, `self.centre` and `self.neighbor` of them.
            bond: (S, 2 C) what bonds add, or (0, 2 C).
        """
        kind = EDGES if summed else EDGE_ROWS
        return self.message.call(kind, lists, x, scale, (centre, rows, bond), x.new_zeros(0))


class AngleMessage:
    """G([e_a, e_b, t_ab, v_c]): summed over b with factors u_b, or added to t_ab."""

    def __init__(self, mlp: GatedMLP) -> None:
        self.hidden = mlp.hidden
        # with one layer, the norm follows at once
        halves = 2 if not mlp.hidden and isinstance(mlp.core_norm, nn.LayerNorm) else 0
        first, second, angle, centre = (
            centred(mlp.weight(part), halves) if halves else mlp.weight(part) for part in range(4)
        )
        bias = centred(mlp.first.bias, halves) if halves else mlp.first.bias
        self.message = PackedMessage(mlp, angle)
        self.first, self.second, self.centre = PackedLinear(first), PackedLinear(second), PackedLinear(centre, bias)

    def __call__(self, e: Tensor, t: Tensor, v: Tensor, factor: Tensor, bond_centre: Tensor, lists: Lists) -> Tensor:
        """(S, C) of bonds with `factor` (S, C); without, (0,): t + G, (A, C)."""
        first = self.first(e) + self.centre(v).index_select(0, bond_centre)
        none = first.new_zeros(0)
        kind = BONDS if self.hidden else ANGLES
        return self.message.call(kind, lists, t, none, (first, self.second(e), none), factor)
