"""The same structure, the same file: LAMMPS on 1, 2, 3 and 4 ranks = Python, to rounding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, PUBLISHED, Case, LennardJones
from export_files import exported
from lammps_run import Result, read_result, run_lammps
from numpy.typing import NDArray

from uip.models.chgnet import CHGNet
from uip.neighbors import build_graph, check_structure, find_pairs
from uip.program import load_program

RANKS = (1, 2, 3, 4)
Solve = Callable[[int], Path]


@pytest.fixture(scope="module")
def solve(tmp_path_factory: pytest.TempPathFactory) -> Solve:
    """The folder with the results of all cases on a number of ranks, one process after `clear` for all of them."""

    @cache
    def folder_of(num_ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"ranks{num_ranks}")
        deck = "\n".join(case.deck(folder) for case in CASES)
        run = run_lammps(folder, deck, num_ranks, limit=480)
        assert run.code == 0, run.text[-3000:]
        return folder

    return folder_of


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


def expected(case: Case, result: Result) -> tuple[float, NDArray, NDArray, NDArray]:
    """Energy, forces, virial (3, 3), magmoms by `uip` in Python, at the positions that LAMMPS wrote.

    The virial is not symmetrised: AllScAIP is not invariant under rotations, and `centroid/stress/atom` says so.
    """
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
    program = load_program(exported(*case.model))
    graph = build_graph(structure, program.cutoff, program.bond_cutoff, program.soft)
    outputs = program(graph)
    forces, magmoms = np.zeros((len(symbols), 3)), np.zeros(len(symbols))
    forces[seen] = outputs.forces.numpy()
    if outputs.magmoms is not None:
        magmoms[seen] = outputs.magmoms.numpy()
    energy, virial = outputs.energy.item(), -graph.edge_vec.numpy().T @ outputs.edge_grad.numpy()
    if outputs.strain_grad is not None:
        virial -= outputs.strain_grad.sum(0).numpy()
    assert np.allclose(0.5 * (virial + virial.T), outputs.virial[0].numpy(), rtol=1e-10)
    if case.lj is not None:
        more_energy, more_forces, more_virial = lennard_jones(case, case.lj, result)
        energy, forces, virial = energy + more_energy, forces + more_forces, virial + more_virial
    return energy, forces, virial, magmoms


VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
NINE = (*VOIGT, (1, 0), (2, 0), (2, 1))


@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lammps_gives_the_numbers_of_python(case: Case, num_ranks: int, solve: Solve) -> None:
    assert_same(case, read_result(solve(num_ranks), case.name))


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("name", ["full_slab", "full_droplet", "full_far_atom"])
def test_compiled_programs_too(name: str, num_ranks: int, tmp_path: Path) -> None:
    """The cases of scripts with every switch, compiled; some ranks own nothing. Compiling takes minutes."""
    case = replace(next(case for case in CASES if case.name == name), model=("allscaip-full", ".pt2"))
    run = run_lammps(tmp_path, case.deck(tmp_path), num_ranks)
    assert run.code == 0, run.text[-3000:]
    assert_same(case, read_result(tmp_path, case.name))


def assert_same(case: Case, result: Result) -> None:
    energy, forces, virial, magmoms = expected(case, result)
    num_atoms = len(result.forces)
    assert abs(result.thermo["pe"] - energy) < 1e-9 * num_atoms
    assert abs(result.thermo["sum_energy"] - energy) < 1e-9 * num_atoms
    assert np.abs(result.forces - forces).max() < 1e-9
    if case.model == PUBLISHED:
        assert np.abs(result.more[:, 0] - magmoms).max() < 1e-9
    scale = np.abs(virial).max()
    assert scale > 0.01
    symmetric = 0.5 * (virial + virial.T)
    for k, (row, column) in enumerate(VOIGT):
        assert abs(result.virial[k] - symmetric[row, column]) < 1e-8 * scale
        assert abs(result.virial_of_atoms[k] - symmetric[row, column]) < 1e-8 * scale
    for k, (row, column) in enumerate(NINE):
        assert abs(result.virial_of_centroids[k] - virial[row, column]) < 1e-8 * scale


def test_cases_are_what_they_say(solve: Solve) -> None:
    """Ranks without atoms, atoms that left their place, more than one rank at work."""
    folder = solve(4)
    for name in ("droplet", "full_droplet"):
        assert len(set(read_result(folder, name).proc)) == 1
    for name in ("cubic", "plain_water", "radial_crystal"):
        assert len(set(read_result(folder, name).proc)) == 4
    assert len(set(read_result(folder, "small_cell").proc)) > 1
    for name in ("moved", "moved_tiled", "full_moved_tiled"):
        builds = re.findall(r"Neighbor list builds = (\d+)", (folder / f"log.{name}").read_text())
        assert int(builds[-1]) > 0
    moved = read_result(folder, "moved")
    start = next(case.atoms for case in CASES if case.name == "moved")
    assert np.linalg.norm(moved.positions - start.positions, axis=1).max() > 1.5


def test_the_eager_model_agrees_with_the_file(solve: Solve, published: CHGNet) -> None:
    """Forces of the model as Python holds it; the file evaluates envelopes exactly, the model as published."""
    from uip.models.heads import gradient_readout

    case = CASES[0]
    result = read_result(solve(2), case.name)
    structure = check_structure(case.atoms.numbers, result.positions, result.cell, True)
    outputs = gradient_readout(published, build_graph(structure, published.cutoff, published.bond_cutoff))
    assert np.abs(result.forces - outputs.forces.numpy()).max() < 2e-4
