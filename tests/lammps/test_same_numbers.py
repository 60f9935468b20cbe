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
from export_files import source
from lammps_run import Result, read_result, run_lammps
from reference import differences, expected

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure

Solve = Callable[[int, bool], Path]


def with_published(case: Case) -> Case:
    return replace(case, model=PUBLISHED) if case.is_chgnet else case


def on_ranks(published: bool, *counts: int, slow: tuple[int, ...] = ()) -> pytest.MarkDecorator:
    """Tests of the same results are in one group: one worker runs LAMMPS."""
    marks = {n: [pytest.mark.xdist_group(f"ranks-{n}-{published}")] for n in counts}
    for num_ranks in slow:
        marks[num_ranks].append(pytest.mark.slow)
    return pytest.mark.parametrize("num_ranks", [pytest.param(n, marks=marks[n]) for n in counts])


@pytest.fixture(scope="module")
def solve(tmp_path_factory: pytest.TempPathFactory) -> Solve:
    """The folder with the results of all cases on a number of ranks, one process after `clear` for all of them; with
    the published model, of those with CHGNet."""

    @cache
    def folder_of(num_ranks: int, published: bool = False) -> Path:
        folder = tmp_path_factory.mktemp(f"ranks{num_ranks}")
        cases = [with_published(case) for case in CASES if case.is_chgnet] if published else CASES
        run = run_lammps(folder, "\n".join(case.deck(folder) for case in cases), num_ranks, limit=480)
        assert run.code == 0, run.text[-3000:]
        return folder

    return folder_of


@on_ranks(False, 1, 2, 3, 4, slow=(3, 4))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lammps_gives_the_numbers_of_python(case: Case, num_ranks: int, solve: Solve) -> None:
    assert_same(case, read_result(solve(num_ranks, False), case.name))


@on_ranks(True, 1, 2, 3, 4, slow=(1, 2, 3, 4))
@pytest.mark.parametrize("case", [case for case in CASES if case.is_chgnet], ids=lambda case: case.name)
def test_published_model(case: Case, num_ranks: int, solve: Solve) -> None:
    """Compiled, where the fast tests run scripts of a small model."""
    assert_same(with_published(case), read_result(solve(num_ranks, True), case.name))


@pytest.mark.slow
@pytest.mark.xdist_group("allscaip-full")  # one worker compiles
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
    if case.is_chgnet:
        assert np.abs(result.more[:, 0] - want.magmoms).max() < 1e-9


@on_ranks(False, 4, slow=(4,))
def test_cases_cover_empty_ranks_and_moved_atoms(num_ranks: int, solve: Solve) -> None:
    """Ranks without atoms, atoms that left their place, more than one rank at work."""
    check_cases(solve(num_ranks, False))


@on_ranks(True, 4, slow=(4,))
def test_cases_of_the_published_model(num_ranks: int, solve: Solve) -> None:
    check_cases(solve(num_ranks, True))


def check_cases(folder: Path) -> None:
    results = {case.name: read_result(folder, case.name) for case in CASES if (folder / f"log.{case.name}").exists()}
    ranks = {name: len(set(result.proc)) for name, result in results.items()}
    for name, wanted in (("droplet", 1), ("full_droplet", 1), ("cubic", 4), ("plain_water", 4), ("radial_crystal", 4)):
        assert ranks.get(name, wanted) == wanted
    assert ranks["small_cell"] > 1
    for name in {"moved", "moved_tiled", "full_moved_tiled"} & results.keys():
        builds = re.findall(r"Neighbor list builds = (\d+)", (folder / f"log.{name}").read_text())
        assert int(builds[-1]) > 0
    start = next(case.atoms for case in CASES if case.name == "moved")
    assert np.linalg.norm(results["moved"].positions - start.positions, axis=1).max() > 1.5


@pytest.mark.parametrize(
    ("published", "tolerance"),
    [
        pytest.param(False, 1e-9, marks=pytest.mark.xdist_group("ranks-2-False")),
        # the file evaluates envelopes exactly, the model as published
        pytest.param(True, 2e-4, marks=[pytest.mark.slow, pytest.mark.xdist_group("ranks-2-True")]),
    ],
)
def test_the_eager_model_agrees_with_the_file(published: bool, tolerance: float, solve: Solve) -> None:
    from uip.models.readout import evaluate

    case = with_published(CASES[0]) if published else CASES[0]
    model, result = source(case.model[0]), read_result(solve(2, published), case.name)
    structure = check_structure(case.atoms.numbers, result.positions, result.cell, True)
    outputs = evaluate(model, build_graph(structure, model.cutoff, model.bond_cutoff))
    assert np.abs(result.forces).max() > 1e-2
    assert np.abs(result.forces - outputs.forces.numpy()).max() < tolerance
