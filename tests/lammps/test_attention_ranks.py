"""AllScAIP on up to eight ranks, gathered and around the ring: the numbers of one process in Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from cases import CASES, FULL, Case, LennardJones, rattled, water
from lammps_run import Result, read_dump, read_result, run_lammps
from reference import differences, expected

BY_NAME = {case.name: case for case in CASES}
WAYS = ("gather", "ring")

HOT = """
velocity all create 4000 12 loop geom
unfix move
{fix}
neigh_modify every 1 delay 0 check yes
neighbor 0.5 bin
timestep {timestep}
dump early all custom 5 early.{name} id x y z proc
dump_modify early format float %.16g sort id
"""
NVE = "fix move all nve"
NPT = "change_box all triclinic\nfix move all npt temp 600 600 0.02 tri 0 2000 0.05"
CHANGING_BOX = Case("npt", water(2, 18), steps=10, model=FULL)
OXIDE = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat((2, 1, 1)), 17)
APART = LennardJones(0.3, 1.6, 4.0, (("Mg", "Mg"), ("Mg", "O"), ("O", "O")))
CROSSING = Case("crossing", OXIDE, lj=APART, steps=100, model=FULL)


def each_way(case: Case, **changes: object) -> list[Case]:
    return [replace(case, name=f"{case.name}_{way}", attention=way, **changes) for way in WAYS]


def moving(case: Case, fix: str, timestep: float) -> list[Case]:
    return [replace(way, after=HOT.format(fix=fix, name=way.name, timestep=timestep)) for way in each_way(case)]


def run_cases(folder: Path, cases: list[Case], num_ranks: int) -> None:
    """One process after `clear` for all cases."""
    run = run_lammps(folder, "\n".join(case.deck(folder) for case in cases), num_ranks)
    assert run.code == 0, run.text[-3000:]


def assert_same(case: Case, result: Result, tolerance: float = 1e-10) -> None:
    want = expected(case, result)
    assert {name: value for name, value in differences(result, want).items() if value > tolerance} == {}
    if case.lj is None:
        assert np.abs(result.node_energy - want.node_energy).max() < tolerance * np.abs(want.node_energy).max()


@pytest.mark.slow
def test_eight_ranks(tmp_path: Path) -> None:
    """Every variant; atoms on all eight ranks, or on one of them."""
    names = ("plain_water", "angular_crystal", "radial_crystal", "full_slab", "full_droplet")
    cases = [BY_NAME[name] for name in names]
    run_cases(tmp_path, cases, 8)
    for case in cases:
        assert_same(case, read_result(tmp_path, case.name))
    assert len(set(read_result(tmp_path, "plain_water").proc)) == 8
    assert len(set(read_result(tmp_path, "full_droplet").proc)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3, 4, 8])
def test_gathered_and_around_the_ring_are_the_same(num_ranks: int, tmp_path: Path) -> None:
    """Every variant; on eight ranks, where `test_eight_ranks` has them gathered, the full one."""
    names = ("plain_water", "angular_crystal", "radial_crystal", "full_slab", "full_far_atom")
    names = names if num_ranks < 8 else names[-2:]
    run_cases(tmp_path, [way for name in names for way in each_way(BY_NAME[name])], num_ranks)
    for name in names:
        gathered, ring = (read_result(tmp_path, f"{name}_{way}") for way in WAYS)
        assert_same(BY_NAME[name], gathered)
        assert np.abs(gathered.forces - ring.forces).max() < 1e-10 * np.abs(gathered.forces).max()
        assert np.abs(gathered.virial - ring.virial).max() < 1e-10 * np.abs(gathered.virial).max()
        assert np.abs(gathered.node_energy - ring.node_energy).max() < 1e-10 * np.abs(gathered.node_energy).max()


@pytest.mark.long
@pytest.mark.slow
def test_single_precision(tmp_path: Path) -> None:
    """1e-4 from double on one rank and on eight; and single it is."""
    cases = each_way(BY_NAME["full_slab"], model=(*FULL, "float32"))
    for num_ranks in (1, 8):
        run_cases(tmp_path, cases, num_ranks)
        for case in cases:
            result = read_result(tmp_path, case.name)
            assert_same(case, result, tolerance=1e-4)
            assert np.abs(result.forces - expected(case, result).forces).max() > 1e-9


@pytest.mark.parametrize("num_ranks", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_box_that_changes_its_shape(num_ranks: int, tmp_path: Path) -> None:
    """NPT: the last step of both ways has the numbers of its positions and its cell."""
    cases = moving(CHANGING_BOX, NPT, 0.0005)
    run_cases(tmp_path, cases, num_ranks)
    for case in cases:
        result = read_result(tmp_path, case.name)
        assert np.abs(result.cell - case.atoms.cell.array).max() > 1e-3
        assert_same(case, result)


@pytest.mark.long
@pytest.mark.slow
def test_atoms_that_cross_borders(tmp_path: Path) -> None:
    """100 hot steps: as on one rank while rounding has not grown, and at the end the numbers of one process."""
    cases = moving(CROSSING, NVE, 0.002)
    positions: dict[tuple[str, int], np.ndarray] = {}
    for num_ranks in (1, 3):
        run_cases(tmp_path, cases, num_ranks)
        for case in cases:
            assert_same(case, read_result(tmp_path, case.name))
            frames = np.array(read_dump(tmp_path / f"early.{case.name}"))
            positions[case.name, num_ranks] = frames[2, :, 1:4]
            crossed = (frames[:, :, 4] != frames[0, :, 4]).any(0)
            assert crossed.sum() >= (4 if num_ranks > 1 else 0)
    for case in cases:
        alone, together = positions[case.name, 1], positions[case.name, 3]
        assert np.abs(together - alone).max() < 1e-9
        assert np.abs(alone - case.atoms.positions).max() > 0.1
