"""`centroid/stress/atom` of models with message passing: a warning, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from lammps_run import run_lammps, write_data
from programs import Failing, write_program

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
DECK = """
units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip
pair_coeff * * {file} Ni O
compute energy all pe/atom
compute kinetic all ke/atom
compute stress all {stress}/atom NULL virial
compute flux all heat/flux kinetic energy stress
thermo_style custom step pe c_flux[*]
fix move all nve
run 2
"""
WARNING = "so the heat current of 'compute heat/flux' is not that of the model"


@pytest.mark.parametrize(
    ("record", "stress", "warnings"),
    [({}, "centroid/stress", 1), ({}, "stress", 0), ({"message_passing": False}, "centroid/stress", 0)],
    ids=["centroid", "stress", "local"],
)
def test_heat_flux(record: dict[str, bool], stress: str, warnings: int, tmp_path: Path) -> None:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    file = write_program(Failing("nothing", 0), tmp_path / "program.pt", ATOMS, **record)
    run = run_lammps(tmp_path, DECK.format(file=file, stress=stress), 2)
    assert run.code == 0, run.text[-3000:]
    assert " ".join(run.text.split()).count(WARNING) == warnings
