"""The same structure, the same file: LAMMPS on 1, 2, 3 and 4 ranks = Python, to rounding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, PUBLISHED, Case
from lammps_run import Result, read_result, run_lammps
from reference import differences, expected

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.models.chgnet import CHGNet

RANKS = (1, 2, pytest.param(3, marks=pytest.mark.slow), 4)
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
    want = expected(case, result)
    assert np.abs(want.virial).max() > 0.01
    assert {name: value for name, value in differences(result, want).items() if value > 1e-10} == {}
    if case.lj is None:
        assert np.abs(result.node_energy - want.node_energy).max() < 1e-10 * np.abs(want.node_energy).max()
    if case.model == PUBLISHED:
        assert np.abs(result.more[:, 0] - want.magmoms).max() < 1e-9


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
    from uip.models.readout import evaluate

    case = CASES[0]
    result = read_result(solve(2), case.name)
    structure = check_structure(case.atoms.numbers, result.positions, result.cell, True)
    outputs = evaluate(published, build_graph(structure, published.cutoff, published.bond_cutoff))
    assert np.abs(result.forces - outputs.forces.numpy()).max() < 2e-4
