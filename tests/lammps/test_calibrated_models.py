"""Uncertainties of energies in LAMMPS: of atoms, and of the sum over all ranks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from lammps_run import read_dump, run_lammps, write_data
from programs import Decaying, Uncertain, write_program

from uip.graph.ase_io import structure_from_atoms
from uip.inference.evaluator import load_evaluator, predict

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True).repeat((2, 1, 1))
ATOMS.rattle(0.1, seed=4)
OUTPUTS = ["node_energy", "edge_grad", "uncertainty_vectors"]
DECK = """
units {units}
read_data data.atoms
mass 1 58.69
mass 2 15.999
fix move all nve
pair_style uip
pair_coeff * * model.pt Ni O
fix sigma all pair 1 uip uncertainty 0
compute total all pair uip
thermo_style custom step pe c_total[15]
run 0
write_dump all custom dump.{units} id f_sigma modify sort id format float %.16g
print "SIGMA $(c_total[15]:%.16g)"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    return tmp_path


@pytest.mark.parametrize(("ranks", "units", "unit"), [(1, "metal", 1.0), (2, "metal", 1.0), (2, "real", 23.06054)])
def test_uncertainties_are_those_of_python(folder: Path, ranks: int, units: str, unit: float) -> None:
    write_program(Uncertain(), folder / "model.pt", ATOMS, outputs=OUTPUTS)
    (expected,) = predict(load_evaluator(folder / "model.pt"), [structure_from_atoms(ATOMS)])
    run = run_lammps(folder, DECK.format(units=units), ranks)
    assert run.code == 0, run.text[-3000:]
    total = float(re.findall(r"^SIGMA (\S+)$", run.text, re.M)[-1]) / unit
    assert total == pytest.approx(expected["energy_uncertainty"], rel=1e-10 if unit == 1.0 else 1e-6)
    of_atoms = read_dump(folder / f"dump.{units}")[-1][:, 1] / unit
    np.testing.assert_allclose(of_atoms, expected["node_uncertainty"], rtol=1e-10 if unit == 1.0 else 1e-6)
    assert total < of_atoms.sum()


def test_a_model_without_calibration_has_none(folder: Path) -> None:
    write_program(Decaying(3.0, 0.8), folder / "model.pt", ATOMS)
    run = run_lammps(folder, DECK.format(units="metal"), 1)
    assert run.code != 0
    assert "uncertainty" in run.text
