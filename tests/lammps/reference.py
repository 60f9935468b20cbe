"""The numbers of Python for the structure that LAMMPS wrote, and how far LAMMPS is from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cases import Case, LennardJones
from export_files import exported
from lammps_run import Result
from numpy.typing import NDArray

from uip.graph.neighbors import build_graph, find_pairs
from uip.graph.structure import check_structure
from uip.program.reader import load_program

VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
NINE = (*VOIGT, (1, 0), (2, 0), (2, 1))


@dataclass(frozen=True)
class Expected:
    """Of all atoms: eV, (N, 3) eV/A, (3, 3) eV, (N,) mu_B, and (N,) eV of the model alone.

    The virial is not symmetrised: AllScAIP is not invariant under rotations, and `centroid/stress/atom` shows it.
    """

    energy: float
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]
    magmoms: NDArray[np.float64]
    node_energy: NDArray[np.float64]


def expected(case: Case, result: Result) -> Expected:
    """By `uip` in Python, in one process and in float64, at the positions that LAMMPS wrote."""
    from ase.data import atomic_numbers

    symbols = np.array(case.symbols)[result.types - 1]
    seen = symbols != case.unseen
    structure = check_structure(
        [atomic_numbers[symbol] for symbol in symbols[seen]],
        result.positions[seen],
        result.cell,
        [letter == "p" for letter in case.boundary.split()],
        charge=case.charge,
        spin=case.spin,
    )
    program = load_program(exported(*case.model[:2]))
    graph = build_graph(structure, program.cutoff, program.bond_cutoff, program.soft)
    outputs = program(graph)
    forces, magmoms, node_energy = (np.zeros((len(symbols), *shape)) for shape in ((3,), (), ()))
    forces[seen] = outputs.forces.numpy()
    node_energy[seen] = outputs.node_energy.numpy()
    if outputs.magmoms is not None:
        magmoms[seen] = outputs.magmoms.numpy()
    energy, virial = outputs.energy.item(), -graph.edge_vec.numpy().T @ outputs.edge_grad.numpy()
    if outputs.strain_grad is not None:
        virial -= outputs.strain_grad.sum(0).numpy()
    assert np.allclose(0.5 * (virial + virial.T), outputs.virial[0].numpy(), rtol=1e-10)
    if case.lj is not None:
        more_energy, more_forces, more_virial = lennard_jones(case, case.lj, result)
        energy, forces, virial = energy + more_energy, forces + more_forces, virial + more_virial
    return Expected(energy, forces, virial, magmoms, node_energy)


def lennard_jones(case: Case, lj: LennardJones, result: Result) -> tuple[float, NDArray, NDArray]:
    """Energy, forces and virial (3, 3) of the second style."""
    symbols = np.array(case.symbols)[result.types - 1]
    structure = check_structure(np.ones(len(symbols)), result.positions, result.cell, True)
    pairs = find_pairs(structure, lj.cutoff)
    vectors = pairs.vectors(structure.positions, structure.cell)
    wanted = {frozenset(pair) for pair in lj.pairs}
    keep = [frozenset(pair) in wanted for pair in zip(symbols[pairs.centre], symbols[pairs.neighbor], strict=True)]
    centre, vectors = pairs.centre[keep], vectors[keep]
    r = np.linalg.norm(vectors, axis=1)
    s = (lj.sigma / r) ** 6
    s_cut = (lj.sigma / lj.cutoff) ** 6
    energy = 0.5 * (4 * lj.epsilon * (s * s - s - s_cut * s_cut + s_cut)).sum()
    gradient = (4 * lj.epsilon * (-12 * s * s + 6 * s) / r**2)[:, None] * vectors
    forces = np.zeros((len(symbols), 3))
    np.add.at(forces, centre, gradient)
    return energy, forces, -0.5 * vectors.T @ gradient


def differences(result: Result, want: Expected) -> dict[str, float]:
    """Relative to the largest entry of each quantity, which is at least 1 (eV, eV/A)."""

    def relative(got: object, right: object) -> float:
        return float(np.abs(np.subtract(got, right)).max() / max(1.0, np.abs(right).max()))

    symmetric = [0.5 * (want.virial[row, column] + want.virial[column, row]) for row, column in VOIGT]
    return {
        "energy": relative(result.thermo["pe"], want.energy),
        "sum of energies of atoms": relative(result.thermo["sum_energy"], want.energy),
        "forces": relative(result.forces, want.forces),
        "virial": relative(result.virial, symmetric),
        "virial of atoms": relative(result.virial_of_atoms, symmetric),
        "virial of centroids": relative(result.virial_of_centroids, [want.virial[place] for place in NINE]),
    }
