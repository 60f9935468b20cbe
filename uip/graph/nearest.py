"""Which edges of a structure are bonds, for models that look at soft nearest neighbours (`uip.ops.soft_rank`).

Decided here once, in float64, so that a program meets index tensors and no decisions; csrc/soft_nearest.cpp says
the same for the engines.
"""

from __future__ import annotations

import numpy as np
import torch

from uip.ops.soft_rank import SoftNearest, envelope_coordinate, soft_rank
from uip.schema import Floats, Integers

CHUNK = 20_000
"""Edges whose ranks are computed at a time: 8 MB of distances."""


def rows_of(centre: Integers, num_atoms: int) -> tuple[Integers, Integers]:
    """Of items sorted by centre: how many each atom has, (N,), and the slot of each item in its row."""
    counts = np.bincount(centre, minlength=num_atoms)
    return counts, np.arange(centre.size) - (np.cumsum(counts) - counts)[centre]


def padded_rows(centre: Integers, items: Integers, num_atoms: int) -> Integers:
    """`items`, sorted by centre, as one row an atom, padded with -1: (N, most items of an atom, at least 1)."""
    counts, slot = rows_of(centre, num_atoms)
    rows = np.full((num_atoms, int(counts.max(initial=1))), -1, dtype=np.int64)  # never without a column
    rows[centre, slot] = items
    return rows


def nearest_edges(centre: Integers, distances: Floats, num_atoms: int, soft: SoftNearest) -> Integers:
    """The edges of each atom to its nearest neighbours, nearest first, padded with -1: (N, M), M < soft.nearest."""
    order = np.lexsort((distances, centre))
    _, slot = rows_of(centre, num_atoms)  # the sorted centres are the centres
    chosen = slot < soft.nearest - 1
    return padded_rows(centre[chosen], order[chosen], num_atoms)


def select_bonds(
    centre: Integers, reverse: Integers, distances: Floats, nearest: Integers, soft: SoftNearest
) -> Integers:
    """Edges that are bonds, ascending; with an edge its reverse is chosen."""
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
