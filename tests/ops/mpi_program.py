"""A check of `mpi_checks.py`: an exported program on several ranks gives the numbers of one rank.

The first rank owns nothing, the second one atom, the others share the rest.
"""

from __future__ import annotations

import numpy as np
import systems
from mpi4py import MPI

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.inference.domain import Domain
from uip.parallel.collectives import use_communicator
from uip.program.reader import load_program


def assign_owners(num_atoms: int, num_ranks: int) -> np.ndarray:
    owner = 2 + np.arange(num_atoms) % (num_ranks - 2)
    owner[num_atoms // 2] = 1
    return owner


def check_program(comm: MPI.Comm, file: str) -> None:
    program = load_program(file)
    for name in ("si_rattled", "nio", "skewed_cell", "water"):
        atoms = systems.ALL[name]()
        structure = check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        graph = build_graph(structure, program.cutoff, program.bond_cutoff, program.soft)
        whole = program.run(graph.tensors())
        share = Domain(comm, graph, assign_owners(len(atoms), comm.size))
        with use_communicator(share.communicator):
            mine = program.handle.run(share.inputs)
        for output, rows in (("node_energy", share.atoms), ("magmoms", share.atoms), ("edge_grad", share.edges)):
            difference = (mine[output] - whole[output][rows]).abs()
            worst = comm.allreduce(float(difference.max()) if difference.numel() else 0.0, op=MPI.MAX)
            assert worst < 1e-11, f"{name}: {output} differs by {worst}"
            assert comm.allreduce(len(rows)) == len(whole[output])
