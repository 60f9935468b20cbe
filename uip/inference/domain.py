"""One structure over several ranks, from Python: `mpiexec -n 4 uip predict big.xyz`.

Every rank reads the structure and builds its graph; the model, which is nearly all of the work and of the memory, sees
only the atoms that the rank owns. Communication: `uip.parallel.mpi.MPICommunicator`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uip.graph.batch import Graph, Outputs
from uip.graph.structure import Structure
from uip.inference.committee import Committee, combined
from uip.inference.evaluator import Evaluator, Prediction, check_finite, split
from uip.models.readout import assemble_outputs
from uip.parallel.collectives import BONDS, EDGES, use_communicator
from uip.parallel.mpi import MPICommunicator
from uip.schema import Integers

RANK_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Set by mpiexec and srun for the processes that they start. `SLURM_NTASKS` is that of a whole allocation."""


def world() -> Any:
    """The communicator of all ranks; None in a process that no mpiexec started, or that is alone.

    Raises:
        RuntimeError: started on several ranks without mpi4py.
    """
    if all(os.environ.get(name, "1") == "1" for name in RANK_COUNTS):
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise RuntimeError(
            "running on several ranks needs mpi4py; run 'pip install mpi4py', or use one rank"
        ) from error
    return MPI.COMM_WORLD if MPI.COMM_WORLD.size > 1 else None


def assign_owners(graph: Graph, num_ranks: int) -> Integers:
    """The rank that owns each atom, (N,): slices of equally many atoms across the longest direction."""
    positions = graph.positions.double().numpy()
    axis = int(np.argmax(np.ptp(positions, axis=0)))
    owner = np.empty(len(positions), dtype=np.int64)
    for rank, atoms in enumerate(np.array_split(np.argsort(positions[:, axis], kind="stable"), num_ranks)):
        owner[atoms] = rank
    return owner


class Domain:
    """What one rank holds of a graph of one structure whose atoms belong to `owner` (N,).

    Attributes:
        atoms, edges: numbers in the whole graph of the rows of this rank.
        inputs: tensors of a model or program, by name of `uip.schema`; a ghost is one row.
        communicator: carries rows between the ranks of `comm`.
    """

    def __init__(self, comm: Any, graph: Graph, owner: Integers, *, ring: bool | None = None) -> None:
        self.graph, self.owner, self.rank = graph, owner, comm.rank
        centre, neighbor = graph.edge_index.numpy()
        self.atoms, self.edges = self._mine(owner), self._mine(owner[centre])
        self.ghosts = np.setdiff1d(neighbor[self.edges], self.atoms)
        atom_place = _places(np.concatenate([self.atoms, self.ghosts]), owner.size)
        self.inputs: dict[str, Tensor] = {
            "atomic_numbers": graph.atomic_numbers[torch.from_numpy(np.concatenate([self.atoms, self.ghosts]))],
            "graph_index": graph.graph_index[torch.from_numpy(self.atoms)],
            "edge_index": torch.from_numpy(atom_place[graph.edge_index.numpy()[:, self.edges]]),
            "edge_vec": graph.edge_vec[torch.from_numpy(self.edges)],
            "positions": graph.positions[torch.from_numpy(self.atoms)],
            "cell": graph.cell,
            "pbc": graph.pbc,
        }
        if graph.charge is not None and graph.spin is not None:
            self.inputs |= {"charge": graph.charge, "spin": graph.spin}
        partners = {EDGES: self._owners(owner[centre], graph.reverse_edge.numpy())[self.edges]}
        if graph.bond_index is not None:
            partners[BONDS] = self._bonds(graph.bond_index.numpy(), owner[centre[graph.bond_index.numpy()]])
        ghosts = self._owners(owner, np.arange(owner.size))[self.ghosts]
        self.communicator = MPICommunicator(comm, ghosts, partners, ring=ring)

    def _bonds(self, bond_index: Integers, bond_owner: Integers) -> Integers:
        """Adds what counts bonds to the inputs; returns rank and row of the opposite direction of each bond."""
        graph = self.graph
        assert graph.reverse_bond is not None
        bonds = self._mine(bond_owner)
        edge_place, bond_place = _places(self.edges, graph.num_edges), _places(bonds, bond_index.size)
        self.inputs["bond_index"] = torch.from_numpy(edge_place[bond_index[bonds]])
        self.inputs["reverse_bond"] = torch.zeros(bonds.size, dtype=torch.int64)  # the communicator knows the partners
        if graph.angle_index is not None:
            angles = self._mine(bond_owner[graph.angle_index[0].numpy()])
            self.inputs["angle_index"] = torch.from_numpy(bond_place[graph.angle_index.numpy()[:, angles]])
        if graph.nearest_edges is not None and graph.bond_slots is not None:
            for name, table, place in (
                ("nearest_edges", graph.nearest_edges, edge_place),
                ("bond_slots", graph.bond_slots, bond_place),
            ):
                rows = table.numpy()[self.atoms]
                self.inputs[name] = torch.from_numpy(np.where(rows < 0, -1, place[rows]))
        return self._owners(bond_owner, graph.reverse_bond.numpy())[bonds]

    def _mine(self, owner: Integers) -> Integers:
        return np.flatnonzero(owner == self.rank)

    @staticmethod
    def _owners(owner: Integers, rows: Integers) -> Integers:
        """Rank that owns each of `rows`, and its place among the rows of that rank, (K, 2)."""
        place = np.empty_like(owner)
        for rank in np.unique(owner):
            mine = owner == rank
            place[mine] = np.arange(mine.sum())
        return np.stack([owner[rows], place[rows]], axis=1)


def _places(rows: Integers, size: int) -> Integers:
    """The place of each number in `rows`, (size,); -1 for others."""
    place = np.full(size, -1, dtype=np.int64)
    place[rows] = np.arange(rows.size)
    return place


def evaluate_distributed(evaluator: Evaluator, graph: Graph, comm: Any, *, ring: bool | None = None) -> Outputs:
    """All outputs of a graph of one structure, float64 and the same on every rank. Collective.

    Args:
        ring: whether attention over all atoms hands keys around the ring instead of gathering them; None: if they are
            many.

    Raises:
        ValueError: a potential that must see the whole structure at once, or one on a GPU: rows travel as CPU tensors.
    """
    if evaluator.potential.device.type != "cpu":
        raise ValueError(
            f"several ranks share a structure on CPUs only, but '{evaluator.potential.card.name}' is on "
            f"{evaluator.potential.device}; use --device cpu, or one rank (LAMMPS runs one GPU per rank)"
        )
    if not evaluator.potential.parallel:
        raise ValueError(
            f"'{evaluator.potential.card.name}' gives right numbers on one rank only; run it without mpiexec"
        )
    graph = graph.to(dtype=evaluator.potential.dtype)
    domain = Domain(comm, graph, assign_owners(graph, comm.size), ring=ring)
    with use_communicator(domain.communicator):
        results = evaluator.run(domain.inputs)
    whole = {
        name: _joined(comm, value, rows, size)
        for name, value in results.items()
        if value is not None
        for rows, size in [(domain.edges, graph.num_edges) if name == "edge_grad" else (domain.atoms, graph.num_atoms)]
    }
    return check_finite(assemble_outputs(graph.to(dtype=torch.float64), whole), evaluator.potential.card.name)


def _joined(comm: Any, part: Tensor, rows: Integers, size: int) -> Tensor:
    """Rows of all ranks at their places in the whole, float64."""
    whole = np.zeros((size, *part.shape[1:]))
    for places, values in comm.allgather((rows, part.detach().double().numpy())):
        whole[places] = values
    return torch.from_numpy(whole)


def predict_distributed(
    evaluator: Evaluator | Committee, structure: Structure, comm: Any, *, ring: bool | None = None
) -> Prediction:
    """The prediction of one structure, on every rank the same; see `evaluate_distributed`."""
    evaluator.check_elements(structure.atomic_numbers)
    graph = evaluator.neighbor_list().build(structure)
    outputs = [evaluate_distributed(member, graph, comm, ring=ring) for member in evaluator.members]
    return split(combined(outputs, graph), [graph.num_atoms])[0]
