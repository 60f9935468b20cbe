"""CHGNet's messages and linear maps in the form that inference runs: packed weights and ops of libuip.

    G(first[row] + second[column] + third[slot] + inputs) * factor        (uip/nn/mlp.py, csrc/gated_message.cpp)

Inputs are x W, with features x, or read from a table where they depend on one number: the distance, the angle.

The plain modules stay the definition. Their weights are copied and packed here: the means over channels that
layer normalisation removes are removed from the weights before it, constants are folded, and matrices (K, N) are stored
in panels (N / L, K, L) of 64 bytes, the order in which the kernels read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.basis import AngularBasis, RadialBasis
from uip.nn.mlp import GatedMLP
from uip.nn.table import Table, radial_table

EDGES, BONDS, ANGLES, EDGE_ROWS = 0, 1, 2, 3
"""Kinds of messages, `uip::MessageKind` in csrc/message_kernels.h."""

_plain_only = False
_twice = False


@contextmanager
def plain_form() -> Iterator[None]:
    """Within, models run the modules that define them, which have all derivatives and need no libuip."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before


def is_plain() -> bool:
    return _plain_only


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Within, models run a form that can be differentiated twice, also where weights are constants."""
    global _twice
    before, _twice = _twice, True
    try:
        yield
    finally:
        _twice = before


def needs_second_derivatives() -> bool:
    return _twice


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
    return Lists(angle_index[0], angle_index[1], centre, offsets, none, none)


class PackedMessage:
    """A `GatedMLP`, packed.

    Args:
        inputs: what the first layer's inputs are multiplied with and, for gradients, its transpose; or a table.
        radial: (K,) f_k / pi and panels (K, C), where factors come from the same K inputs as the first layer.
        num_radial: how many of K are radial functions; one more is the constant 1.
        tabulated: `inputs` is a table.
    """

    def __init__(
        self,
        mlp: GatedMLP,
        inputs: list[Tensor],
        *,
        radial: tuple[Tensor, Tensor] | None = None,
        num_radial: int = 0,
        tabulated: bool = False,
    ) -> None:
        self.channels, self.num_radial, self.tabulated = mlp.channels, num_radial, tabulated
        self.norm = isinstance(mlp.core_norm, nn.LayerNorm)
        affine = [*self._affine(mlp.core_norm), *self._affine(mlp.gate_norm)]
        self.weights = [*inputs, *(value.to(inputs[0]) for value in affine)]
        if isinstance(mlp.core, nn.Linear) and isinstance(mlp.gate, nn.Linear):
            core, gate = self._second(mlp.core), self._second(mlp.gate)
            self.weights += [panels(core[0].T), core[1], panels(gate[0].T), gate[1], panels(core[0]), panels(gate[0])]
        self.weights += radial or ()

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
            kind, self.norm, self.tabulated, self.num_radial, x, scale, *totals, factor, *lists_weights
        )
        return y


class EdgeMessage:
    """sum_j G([v_i, e_ij, v_j]) * w_ij of atoms i, or each G * w for itself; e_ij and w_ij from distances.

    Args:
        mlp: of parts v_i, e_ij, v_j.
        embedding: (C, n), from radial functions to e_ij.
        factor: (C, n), to w_ij.
        tabulated: read both from a table of distances, instead of computing sines.
    """

    def __init__(
        self, mlp: GatedMLP, basis: RadialBasis, embedding: Tensor, factor: Tensor, *, tabulated: bool
    ) -> None:
        edge, bias = mlp.weight(1) @ embedding, mlp.first.bias
        self.basis, self.per_length = basis, 0.0
        if tabulated:
            columns = torch.cat([edge, factor]).double()
            shift = torch.cat([bias, bias.new_zeros(factor.shape[0])]).double()
            table = radial_table(basis, columns, shift)
            self.per_length = table.per_length
            self.message = PackedMessage(mlp, table.weights(edge), tabulated=True)
        else:
            padding = -(embedding.shape[1] + 1) % 16
            edge = F.pad(torch.cat([edge, bias.unsqueeze(1)], dim=1), (0, padding))
            factor = F.pad(factor, (0, 1 + padding))
            frequencies = F.pad(basis.frequencies / math.pi, (0, 1 + padding))
            self.message = PackedMessage(
                mlp,
                [panels(edge.T), panels(torch.cat([edge, factor]))],
                radial=(frequencies, panels(factor.T)),
                num_radial=embedding.shape[1],
            )
        self.centre, self.bond, self.neighbor = (PackedLinear(mlp.weight(part)) for part in range(3))

    def inputs(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """`x` and `scale` of `__call__`, (E,): by `RadialBasis.split`; of tables, distances in knots and (0,)."""
        return (distance * self.per_length, distance.new_zeros(0)) if self.per_length else self.basis.split(distance)

    def __call__(
        self, x: Tensor, scale: Tensor, centre: Tensor, rows: Tensor, bond: Tensor, lists: Lists, *, summed: bool = True
    ) -> Tensor:
        """(N, C), or (E, C) if not `summed`.

        Args:
            x, scale: `inputs` of the distances.
            centre: (N, 2 C), rows: (R, 2 C): products of atoms, `self.centre` and `self.neighbor` of them.
            bond: (S, 2 C) what bonds add, or (0, 2 C).
        """
        kind = EDGES if summed else EDGE_ROWS
        return self.message.call(kind, lists, x, scale, (centre, rows, bond), x.new_zeros(0))


class RadialLinear:
    """A linear map (C, n) of radial functions, (rows,) A to (rows, C).

    Args:
        tabulated: read from a table of distances, instead of computing sines.
    """

    def __init__(self, basis: RadialBasis, weight: Tensor, *, tabulated: bool) -> None:
        self.table: tuple[Tensor, float] | None = None
        if tabulated:
            table = radial_table(basis, weight.double())
            self.table = table.weights(weight)[0], table.per_length
        padding = -basis.frequencies.shape[0] % 8
        self.basis, self.frequencies = basis, F.pad(basis.frequencies, (0, padding))
        self.map = PackedLinear(F.pad(weight, (0, padding)))

    def __call__(self, distance: Tensor) -> Tensor:
        if self.table is not None:
            rows, per_length = self.table
            y: Tensor = torch.ops.uip.interpolate(distance * per_length, rows)
            return y
        x, scale = self.basis.split(distance)
        return self.map(torch.sin(x.unsqueeze(1) * self.frequencies) * scale.unsqueeze(1))


class AngleMessage:
    """G([e_a, e_b, t_ab, v_c]): summed over b with factors u_b, or added to t_ab.

    Args:
        mlp: of the four parts.
        start: with it, t_ab is read from tables of angles: basis and embedding (C, n).
    """

    def __init__(self, mlp: GatedMLP, start: tuple[AngularBasis, Tensor] | None = None) -> None:
        self.hidden = mlp.hidden
        # with one layer, the norm follows at once
        halves = 2 if not mlp.hidden and isinstance(mlp.core_norm, nn.LayerNorm) else 0
        first, second, angle, centre = (
            centred(mlp.weight(part), halves) if halves else mlp.weight(part) for part in range(4)
        )
        bias = centred(mlp.first.bias, halves) if halves else mlp.first.bias
        self.per_angle = 0.0
        if start is None:
            self.message = PackedMessage(mlp, [panels(angle.T), panels(angle)])
        else:
            basis, embedding = deepcopy(start[0]).double(), start[1].double()
            columns = angle.double() @ embedding
            columns = columns if mlp.hidden else torch.cat([columns, embedding])
            fastest = basis.frequencies.abs().max().item()
            table = Table(lambda theta: basis.of_angle(theta) @ columns.T, math.pi, fastest)
            self.per_angle = table.per_length
            self.message = PackedMessage(mlp, table.weights(angle), tabulated=True)
        self.first, self.second, self.centre = PackedLinear(first), PackedLinear(second), PackedLinear(centre, bias)

    def __call__(self, e: Tensor, t: Tensor, v: Tensor, factor: Tensor, lists: Lists) -> Tensor:
        """(S, C) of bonds with `factor` (S, C); without, (0,): t + G, (A, C).

        Args:
            e: (S, C) bonds; v: (N, C) atoms.
            t: (A, C) angles; with tables their sizes, (A,) from 0 to pi.
        """
        first, second, centre = self.first(e), self.second(e), self.centre(v)
        kind = BONDS if self.hidden else ANGLES
        t = t * self.per_angle if self.per_angle else t
        return self.message.call(kind, lists, t, first.new_zeros(0), (first, second, centre), factor)
