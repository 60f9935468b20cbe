"""A graph divided among ranks, for programs run under mpiexec: `python -m ...` scripts of this folder import it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from uip.graph import Graph
from uip.parallel import BONDS, EDGES, MPICommunicator


class Share:
    """What one rank holds of a graph whose atoms belong to `owner` (N,).

    Attributes:
        atoms, edges: numbers in the whole graph of the rows of this rank.
        inputs: tensors of a program, by name of `uip.schema`; ghosts are one row per neighbour of another rank.
        communicator: carries rows between the ranks of `comm`.
    """

    def __init__(self, comm: Any, graph: Graph, owner: np.ndarray) -> None:
        centre, neighbor = graph.edge_index.numpy()
        self.atoms = np.flatnonzero(owner == comm.rank)
        self.edges = np.flatnonzero(owner[centre] == comm.rank)
        bond_centre = centre[graph.bond_index.numpy()]
        bonds = np.flatnonzero(owner[bond_centre] == comm.rank)
        angles = np.flatnonzero(owner[bond_centre[graph.angle_index[0].numpy()]] == comm.rank)
        ghosts = np.setdiff1d(neighbor[self.edges], self.atoms)

        rows = np.concatenate([self.atoms, ghosts])
        place = {name: np.full(size, -1) for name, size in (("atom", owner.size), ("edge", centre.size))}
        place["bond"] = np.full(bond_centre.size, -1)
        place["atom"][rows] = np.arange(rows.size)
        place["edge"][self.edges] = np.arange(self.edges.size)
        place["bond"][bonds] = np.arange(bonds.size)
        arrays = {
            "atomic_numbers": graph.atomic_numbers.numpy()[rows],
            "graph_index": np.zeros(self.atoms.size, dtype=np.int64),
            "edge_index": place["atom"][graph.edge_index.numpy()[:, self.edges]],
            "edge_vec": graph.edge_vec.numpy()[self.edges],
            "bond_index": place["edge"][graph.bond_index.numpy()[bonds]],
            "reverse_bond": np.zeros(bonds.size, dtype=np.int64),  # the communicator knows the partners
            "angle_index": place["bond"][graph.angle_index.numpy()[:, angles]],
        }
        self.inputs: dict[str, Tensor] = {name: torch.from_numpy(array) for name, array in arrays.items()}
        partners = {
            EDGES: self._owners(owner[centre], graph.reverse_edge.numpy())[self.edges],
            BONDS: self._owners(owner[bond_centre], graph.reverse_bond.numpy())[bonds],
        }
        self.communicator = MPICommunicator(comm, self._owners(owner, np.arange(owner.size))[ghosts], partners)

    @staticmethod
    def _owners(owner: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Rank that owns each of `rows`, and its place among the rows of that rank."""
        place = np.empty_like(owner)
        for rank in np.unique(owner):
            mine = owner == rank
            place[mine] = np.arange(mine.sum())
        return np.stack([owner[rows], place[rows]], axis=1)
