"""Selects the edges that are bonds, for models with soft nearest neighbours (`uip.ops.soft_rank`).

The selection is made in float64, before the model runs; the model receives index tensors. `uip/csrc/soft_nearest.cpp`
implements the same selection for LAMMPS and OpenMM.
"""

from __future__ import annotations

import numpy as np
import torch

from uip.ops.soft_rank import SoftNearest, envelope_coordinate, soft_rank
from uip.schema import Floats, Integers

CHUNK = 20_000
"""Edges whose ranks are computed in one pass: 8 MB of distances."""


def rows_of(centre: Integers, num_atoms: int) -> tuple[Integers, Integers]:
    """For items sorted by centre: the number of items of each atom, (N,), and the slot of each item in its row."""
    counts = np.bincount(centre, minlength=num_atoms)
    return counts, np.arange(centre.size) - (np.cumsum(counts) - counts)[centre]


def padded_rows(centre: Integers, items: Integers, num_atoms: int) -> Integers:
    """`items`, sorted by centre, as one row per atom, padded with -1; at least one column."""
    counts, slot = rows_of(centre, num_atoms)
    rows = np.full((num_atoms, int(counts.max(initial=1))), -1, dtype=np.int64)
    rows[centre, slot] = items
    return rows


def nearest_edges(centre: Integers, distances: Floats, num_atoms: int, soft: SoftNearest) -> Integers:
    """The edges of each atom to its nearest neighbours, nearest first, padded with -1: (N, M), M < soft.nearest."""
    order = np.lexsort((distances, centre))
    _, slot = rows_of(centre, num_atoms)  # sorting within rows leaves `centre` unchanged
    chosen = slot < soft.nearest - 1
    return padded_rows(centre[chosen], order[chosen], num_atoms)


def select_bonds(
    centre: Integers, reverse: Integers, distances: Floats, nearest: Integers, soft: SoftNearest
) -> Integers:
    """Indices of the edges that are bonds, ascending; an edge and its reverse are both selected or neither."""
    ranks = _ranks(centre, distances, nearest, soft)
    x = envelope_coordinate(ranks, ranks[torch.from_numpy(reverse)], torch.from_numpy(distances), soft)
    return np.flatnonzero((x < 1.0).numpy())


def _ranks(centre: Integers, distances: Floats, nearest: Integers, soft: SoftNearest) -> torch.Tensor:
    """Soft rank of each edge in its centre's row, (E,); infinite for edges that are not among the nearest."""
    ranks = torch.full((centre.size,), torch.inf, dtype=torch.float64)
    if distances.size == 0:
        return ranks
    length = torch.from_numpy(distances)
    rows = length[torch.from_numpy(nearest).clamp(min=0)]
    rows[torch.from_numpy(nearest < 0)] = torch.inf
    candidates = np.sort(nearest[nearest >= 0])
    for edges in np.split(candidates, range(CHUNK, candidates.size, CHUNK)):
        index = torch.from_numpy(edges)
        ranks[index] = soft_rank(length[index], rows[torch.from_numpy(centre[edges])], soft.sigma)
    return ranks
