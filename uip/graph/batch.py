"""`Graph`: the inputs of a model, batched; `Outputs`: its outputs.

Names, shapes and units: `uip.schema`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from uip.schema import FIELDS


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One or several structures as tensors; field by field as in `uip.schema.INPUTS`.

    Fields that a model does not read may be None.
    """

    atomic_numbers: Tensor
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    graph_index: Tensor
    edge_index: Tensor
    shifts: Tensor
    edge_vec: Tensor
    reverse_edge: Tensor
    bond_index: Tensor | None = None
    reverse_bond: Tensor | None = None
    angle_index: Tensor | None = None
    nearest_edges: Tensor | None = None
    bond_slots: Tensor | None = None
    charge: Tensor | None = None
    spin: Tensor | None = None

    @property
    def num_atoms(self) -> int:
        return self.graph_index.shape[0]

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]

    @property
    def num_angles(self) -> int:
        return 0 if self.angle_index is None else self.angle_index.shape[1]

    @property
    def num_graphs(self) -> int:
        return self.cell.shape[0]

    @property
    def atoms_per_graph(self) -> Tensor:
        """(B,) int64."""
        return torch.bincount(self.graph_index, minlength=self.num_graphs)

    @property
    def volume(self) -> Tensor:
        """(B,) A^3; zero where a cell vector is missing."""
        return torch.linalg.det(self.cell).abs()

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are present, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> Graph:
        """A copy on `device`, its real tensors as `dtype`; `non_blocking`: from pinned memory, without waiting."""
        moved = {
            name: value.to(
                device=device, dtype=dtype if FIELDS[name].dtype == "real" else None, non_blocking=non_blocking
            )
            for name, value in self.tensors().items()
        }
        return Graph(**moved)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs of a model for a `Graph`; field by field as in `uip.schema.OUTPUTS`."""

    energy: Tensor
    node_energy: Tensor
    edge_grad: Tensor | None = None
    position_grad: Tensor | None = None
    strain_grad: Tensor | None = None
    forces: Tensor | None = None
    virial: Tensor | None = None
    stress: Tensor | None = None
    magmoms: Tensor | None = None
    energy_deviation: Tensor | None = None
    force_deviation: Tensor | None = None
    virial_deviation: Tensor | None = None
    energy_uncertainty: Tensor | None = None
    node_uncertainty: Tensor | None = None
    uncertainty_vectors: Tensor | None = None


def batch(graphs: Sequence[Graph]) -> Graph:
    """Join graphs into one: tensors are concatenated, index tensors get the offsets defined by `uip.schema`.

    Raises:
        ValueError: no graphs, or graphs with different fields.
    """
    if not graphs:
        raise ValueError("`batch` needs at least one graph, got none")
    parts = [graph.tensors() for graph in graphs]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError("all graphs of a batch must have the same fields; build them with the same model")
    counts = [_row_counts(part) for part in parts]
    joined = {}
    for name in parts[0]:
        field = FIELDS[name]
        values = [part[name] for part in parts]
        if field.is_padded:
            width = max(value.shape[1] for value in values)
            values = [F.pad(value, (0, width - value.shape[1]), value=-1) for value in values]
        joined[name] = torch.cat(values, dim=field.batch_axis)
        if field.indexes:
            offsets = _offsets(count[field.indexes] for count in counts)
            lengths = [value.shape[field.batch_axis] for value in values]
            joined[name] = _shifted(joined[name], offsets, lengths, field.batch_axis)
    return Graph(**joined)


def _row_counts(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Number of rows of each shape letter in one graph."""
    return {FIELDS[name].letter: value.shape[FIELDS[name].batch_axis] for name, value in tensors.items()}


def _shifted(joined: Tensor, offsets: list[int], lengths: list[int], axis: int) -> Tensor:
    """Joined index tensors, each with its own offset; negative entries are padding and do not change."""
    shift = torch.repeat_interleave(torch.tensor(offsets), torch.tensor(lengths)).to(joined.device)
    shape = [-1 if k == axis else 1 for k in range(joined.ndim)]
    return torch.where(joined < 0, joined, joined + shift.view(shape))


def _offsets(counts: Iterable[int]) -> list[int]:
    offsets, total = [], 0
    for count in counts:
        offsets.append(total)
        total += count
    return offsets


def edge_vectors(positions: Tensor, cell: Tensor, edge_index: Tensor, shifts: Tensor, graph_index: Tensor) -> Tensor:
    """r_j - r_i + shifts @ cell, (E, 3) A, as a differentiable function of positions and cell."""
    centre, neighbor = edge_index[0], edge_index[1]
    cells = cell.index_select(0, graph_index.index_select(0, centre))
    offset = torch.einsum("ek,ekl->el", shifts.to(cell.dtype), cells)
    return positions.index_select(0, neighbor) - positions.index_select(0, centre) + offset
