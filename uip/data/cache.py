"""Graphs and labels of a data set in one folder: built once, then read through memory maps.

    rows.npy             per structure: number of rows of each shape letter of `uip.schema`
    <field>.bin          the rows of all structures, one after the other; structure k is one slice
    info.jsonl           per structure: text and numbers of `atoms.info`
    complete             written last

`uip.data.cache_build` writes the folder. Edge vectors are not stored; they are computed from positions, cell and
shifts. Reals are float64, integers int32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uip.data.samples import Sample, Targets
from uip.graph.batch import Graph
from uip.graph.neighbors import NeighborPairs
from uip.graph.structure import complete_cell
from uip.schema import FIELDS

CACHE_VERSION = 4
"""Increased when the layout changes; part of every cache key."""

DTYPES: dict[str, np.dtype[Any]] = {
    "real": np.dtype(np.float64),
    "int64": np.dtype(np.int32),
    "bool": np.dtype(np.bool_),
}
STORED = {
    "graph": (
        *("atomic_numbers", "positions", "cell", "pbc", "graph_index", "edge_index", "shifts", "reverse_edge"),
        *("bond_index", "reverse_bond", "angle_index", "nearest_edges", "bond_slots", "charge", "spin"),
    ),
    "targets": ("energy", "forces", "stress", "magmoms"),
}
IDENTITY = ("atomic_numbers", "positions", "cell", "pbc", "charge", "spin")
"""Fields of a structure from which all others follow."""
LETTERS = ("N", "E", "S", "A", "B")
WIDTHS = {name: item.shape[1] for name, item in FIELDS.items() if item.is_padded}
"""Padded fields, and the shape letter of their row length."""
COLUMNS = (*LETTERS, *dict.fromkeys(WIDTHS.values()))


def row_letter(name: str) -> str:
    """The shape letter of the rows of a field."""
    return "N" if FIELDS[name].letter == "R" else FIELDS[name].letter  # no ghosts in the cache


class Store:
    """The samples in a complete folder; fields are read on access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: NDArray[np.int64] = np.load(folder / "rows.npy")
        self.counts = {letter: self.rows[:, k] for k, letter in enumerate(COLUMNS)}
        self.starts = {name: np.cumsum(lengths) - lengths for name, lengths in self._lengths().items()}
        self.arrays = {name: self._open(folder, name) for group in STORED.values() for name in group}

    def _lengths(self) -> dict[str, NDArray[np.int64]]:
        """For each field: number of entries of each structure in its file."""
        names = [name for group in STORED.values() for name in group]
        padded = {name: self.counts["N"] * self.counts[width] for name, width in WIDTHS.items()}
        return {name: padded.get(name, self.counts[row_letter(name)]) for name in names}

    def _open(self, folder: Path, name: str) -> NDArray[Any] | None:
        field, path = FIELDS[name], folder / f"{name}.bin"
        if not path.exists():
            return None
        sizes = tuple(int(size) for size in field.shape if not size.isalpha())
        total = int(self._lengths()[name].sum())
        if total == 0:
            return np.empty((0, *sizes), DTYPES[field.dtype])
        return np.memmap(path, DTYPES[field.dtype], mode="r", shape=(total, *sizes))

    def __len__(self) -> int:
        return len(self.rows)

    def infos(self) -> Iterator[dict[str, Any]]:
        """Text and numbers of `atoms.info` of each structure, one after the other."""
        with (self.folder / "info.jsonl").open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def contains(self, element: int) -> NDArray[np.bool_]:
        """Whether each structure has atoms with this atomic number, (B,)."""
        numbers = self.arrays["atomic_numbers"]
        if numbers is None or not len(self):
            return np.zeros(len(self), dtype=np.bool_)
        return np.logical_or.reduceat(numbers == element, self.starts["atomic_numbers"])

    def num_labels(self, name: str) -> NDArray[np.int64]:
        """Number of labelled values of each structure, (B,); a label is known for all of a structure or not at all."""
        array = self.arrays[name]
        if array is None or not len(self):
            return np.zeros(len(self), dtype=np.int64)
        first = array[self.starts[name]].reshape(len(self), -1)
        return np.isfinite(first[:, 0]) * self.counts[row_letter(name)] * first.shape[1]

    def identity(self) -> bytes:
        """Hash of the structures and labels of all samples, to compare data sets."""
        total = hashlib.sha256(self.rows.tobytes())
        for name in (*IDENTITY, *STORED["targets"]):
            array = self.arrays[name]
            if array is not None:
                total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return total.digest()

    def read(self, name: str, k: int) -> Tensor | None:
        """One field of structure k, with its shape and dtype."""
        array = self.arrays[name]
        if array is None:
            return None
        field, start = FIELDS[name], self.starts[name][k]
        count = self.counts[row_letter(name)][k] * (self.counts[WIDTHS[name]][k] if name in WIDTHS else 1)
        value = np.array(array[start : start + count], dtype=np.int64 if field.dtype == "int64" else array.dtype)
        if name in WIDTHS:
            value = value.reshape(int(self.counts["N"][k]), int(self.counts[WIDTHS[name]][k]))
        return torch.from_numpy(value).movedim(0, field.batch_axis).contiguous()

    def __getitem__(self, k: int) -> Sample:
        graph = {name: self.read(name, k) for name in STORED["graph"]}
        targets = {name: self.read(name, k) for name in STORED["targets"]}
        graph["edge_vec"] = stored_edge_vectors(graph)
        return Sample(Graph(**graph), Targets(**targets))  # type: ignore[arg-type]


def stored_edge_vectors(graph: Mapping[str, Tensor | None]) -> Tensor:
    """Edge vectors of a stored graph, (E, 3) A, with the bits that they had when it was built."""
    names = ("edge_index", "shifts", "reverse_edge", "positions", "cell", "pbc")
    (centre, neighbor), shifts, reverse, positions, (cell,), (pbc,) = (graph[name].numpy() for name in names)  # type: ignore[union-attr]
    pairs = NeighborPairs(centre, neighbor, shifts, reverse)
    return torch.from_numpy(pairs.vectors(positions, complete_cell(cell, pbc)))
