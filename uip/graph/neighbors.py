"""Neighbour lists: from the arrays of one structure to a `Graph`, in float64, with vesin.

Each pair is found once and written in both directions, so the reverse of an edge is known by construction
and needs no comparison of distances. Supported: any cell, any pbc, cells smaller than the cutoff, atoms
outside the box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import vesin
from numpy.typing import NDArray

from uip.graph.batch import Graph
from uip.graph.nearest import nearest_edges, padded_rows, select_bonds
from uip.graph.structure import MIN_DISTANCE, Structure, complete_cell
from uip.ops.soft_rank import SoftNearest
from uip.schema import Floats, Integers


@dataclass(frozen=True)
class NeighborPairs:
    """Directed pairs sorted by centre, with their vectors (E, 3) A and the index of the opposite direction."""

    centre: Integers
    neighbor: Integers
    shifts: Integers
    reverse: Integers

    def vectors(self, positions: Floats, cell: Floats) -> Floats:
        """r_j - r_i + shifts @ cell; the vectors of opposite directions are bitwise equal except for the sign."""
        return (positions[self.neighbor] - positions[self.centre]) + self.shifts.astype(np.float64) @ cell

    def select(self, mask: NDArray[np.bool_]) -> NeighborPairs:
        """The pairs where `mask` is true; `mask` must select both directions of a pair or neither."""
        number = np.cumsum(mask) - 1
        return NeighborPairs(self.centre[mask], self.neighbor[mask], self.shifts[mask], number[self.reverse[mask]])


def find_pairs(structure: Structure, cutoff: float) -> NeighborPairs:
    """All pairs with |r_j - r_i + shifts @ cell| < cutoff, both directions, sorted by centre."""
    cell = complete_cell(structure.cell, structure.pbc)
    search = vesin.NeighborList(cutoff=cutoff, full_list=False)
    i, j, shifts = search.compute(structure.positions, cell, structure.pbc, quantities="ijS", copy=True)
    i, j, shifts = i.astype(np.int64), j.astype(np.int64), shifts.astype(np.int64)
    centre = np.concatenate([i, j])
    order = np.argsort(centre, kind="stable")
    slot = np.empty_like(order)
    slot[order] = np.arange(order.size)
    opposite = np.concatenate([slot[i.size :], slot[: i.size]])
    return NeighborPairs(
        centre[order],
        np.concatenate([j, i])[order],
        np.concatenate([shifts, -shifts])[order],
        opposite[order],
    )


def find_angles(bond_centre: Integers, num_atoms: int) -> Integers:
    """All ordered pairs of different bonds with the same centre, (2, A), for bonds sorted by centre."""
    counts = np.bincount(bond_centre, minlength=num_atoms)
    first_bond = np.cumsum(counts) - counts
    partners = np.maximum(counts[bond_centre] - 1, 0)
    first = np.repeat(np.arange(bond_centre.size), partners)
    start = np.cumsum(partners) - partners
    second = first_bond[bond_centre[first]] + np.arange(first.size) - start[first]
    second += second >= first
    return np.stack([first, second])


class NeighborList:
    """Builds the `Graph` of a structure, and of later structures without a new search while atoms stay within the skin.

    Args:
        cutoff: A; edges are shorter.
        bond_cutoff: A; bonds, which form angles, are shorter. None: no angles.
        soft: bonds are edges to soft nearest neighbours. None: no such bonds.
        skin: A; 0: a new search for each structure.
    """

    def __init__(
        self, cutoff: float, bond_cutoff: float | None = None, soft: SoftNearest | None = None, *, skin: float = 0.0
    ) -> None:
        self.cutoff, self.bond_cutoff, self.soft, self.skin = cutoff, bond_cutoff, soft, skin
        self.num_searches = 0
        self._built: Structure | None = None
        self._pairs: NeighborPairs | None = None

    def build(self, structure: Structure) -> Graph:
        """The graph of `structure`, float64 on the CPU.

        Raises:
            ValueError: two atoms closer than `MIN_DISTANCE`.
        """
        if self._pairs is None or not self._still_valid(structure):
            self._pairs = find_pairs(structure, self.cutoff + self.skin)
            self._built = structure
            self.num_searches += 1
        vectors = self._pairs.vectors(structure.positions, complete_cell(structure.cell, structure.pbc))
        distances = np.sqrt(np.einsum("ek,ek->e", vectors, vectors))
        near = distances < self.cutoff
        pairs = self._pairs
        if not near.all():
            pairs, vectors, distances = pairs.select(near), vectors[near], distances[near]
        _check_distances(pairs, distances)
        return _to_graph(structure, pairs, vectors, self._bonds(pairs, distances, structure.atomic_numbers.size))

    def _bonds(self, pairs: NeighborPairs, distances: Floats, num_atoms: int) -> dict[str, Integers]:
        if self.soft is not None:
            return _soft_bonds(pairs, distances, num_atoms, self.soft)
        if self.bond_cutoff is None:
            return {}
        short = distances < self.bond_cutoff
        bonds = pairs.select(short)
        return {
            "bond_index": np.flatnonzero(short),
            "reverse_bond": bonds.reverse,
            "angle_index": find_angles(bonds.centre, int(pairs.centre.max(initial=-1)) + 1),
        }

    def _still_valid(self, structure: Structure) -> bool:
        """Whether no pair outside the search range can have come within the cutoff.

        With the deformation F = built_cell^-1 cell and the residual displacements u, a pair at distance r
        is now at least sigma_min(F) r - 2 max|u| apart.
        """
        built = self._built
        assert built is not None
        same = (
            self.skin > 0
            and built.positions.shape == structure.positions.shape
            and np.array_equal(built.pbc, structure.pbc)
        )
        if not same:
            return False
        deformation = np.linalg.solve(
            complete_cell(built.cell, built.pbc), complete_cell(structure.cell, structure.pbc)
        )
        residual = structure.positions - built.positions @ deformation
        moved = np.sqrt(np.einsum("nk,nk->n", residual, residual).max())
        shrink = np.linalg.svd(deformation, compute_uv=False).min()
        return bool(shrink * (self.cutoff + self.skin) - 2.0 * moved >= self.cutoff)


def build_graph(
    structure: Structure, cutoff: float, bond_cutoff: float | None = None, soft: SoftNearest | None = None
) -> Graph:
    """The graph of one structure, float64 on the CPU; arguments as of `NeighborList`."""
    return NeighborList(cutoff, bond_cutoff, soft).build(structure)


def count_graph(structure: Structure, cutoff: float, bond_cutoff: float) -> tuple[int, int]:
    """Numbers of directed edges and of angles of a graph, in a third of the time of building it.

    Raises:
        ValueError: as of `NeighborList.build`.
    """
    cell = complete_cell(structure.cell, structure.pbc)
    search = vesin.NeighborList(cutoff=cutoff, full_list=False)
    i, j, shifts = search.compute(structure.positions, cell, structure.pbc, quantities="ijS", copy=False)
    pairs = NeighborPairs(i.astype(np.int64), j.astype(np.int64), shifts, np.zeros(0, dtype=np.int64))
    vectors = pairs.vectors(structure.positions, cell)
    distances = np.sqrt(np.einsum("ek,ek->e", vectors, vectors))
    _check_distances(pairs, distances)
    short = distances < bond_cutoff
    ends = np.concatenate([pairs.centre[short], pairs.neighbor[short]])
    bonds = np.bincount(ends, minlength=structure.atomic_numbers.size)
    return 2 * int((distances < cutoff).sum()), int((bonds * (bonds - 1)).sum())


def _soft_bonds(pairs: NeighborPairs, distances: Floats, num_atoms: int, soft: SoftNearest) -> dict[str, Integers]:
    nearest = nearest_edges(pairs.centre, distances, num_atoms, soft)
    chosen = select_bonds(pairs.centre, pairs.reverse, distances, nearest, soft)
    mask = np.zeros(pairs.centre.size, dtype=bool)
    mask[chosen] = True
    bonds = pairs.select(mask)
    return {
        "bond_index": chosen,
        "reverse_bond": bonds.reverse,
        "nearest_edges": nearest,
        "bond_slots": padded_rows(bonds.centre, np.arange(chosen.size), num_atoms),
    }


def _check_distances(pairs: NeighborPairs, distances: Floats) -> None:
    if distances.size and distances.min() < MIN_DISTANCE:
        worst = int(distances.argmin())
        raise ValueError(
            f"atoms must be at least {MIN_DISTANCE} A apart, but atoms {pairs.centre[worst]} and "
            f"{pairs.neighbor[worst]} are {distances[worst]:.3g} A apart; remove duplicates or check cell and units"
        )


def _to_graph(structure: Structure, pairs: NeighborPairs, vectors: Floats, bonds: dict[str, Integers]) -> Graph:
    return Graph(
        atomic_numbers=torch.from_numpy(structure.atomic_numbers),
        positions=torch.from_numpy(structure.positions),
        cell=torch.from_numpy(structure.cell)[None],
        pbc=torch.from_numpy(structure.pbc)[None],
        graph_index=torch.zeros(structure.atomic_numbers.size, dtype=torch.int64),
        edge_index=torch.from_numpy(np.stack([pairs.centre, pairs.neighbor])),
        shifts=torch.from_numpy(pairs.shifts),
        edge_vec=torch.from_numpy(vectors),
        reverse_edge=torch.from_numpy(pairs.reverse),
        charge=torch.tensor([structure.charge]),
        spin=torch.tensor([structure.spin]),
        **{name: torch.from_numpy(value) for name, value in bonds.items()},
    )
