"""Atoms less than 0.1 A apart after the setup of a run: a finite repulsion, so that trial moves are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from lammps_run import run_lammps, write_data
from programs import Power, write_program

START = """
units metal
atom_modify map array
processors * 1 1
read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip
pair_coeff * * {file} Ni O
"""
WARNING = "In such steps the model is replaced by a repulsion of more than 1e8 eV"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_program(Power(0.1, -1.0), tmp_path / "program.pt", bulk("NiO", "rocksalt", a=4.17, cubic=True))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_two_atoms_that_meet(num_ranks: int, file: Path) -> None:
    """Energy and slope of the repulsion; the atoms meet at a border between ranks."""
    atoms = Atoms("NiO", [[5.0, 6.0, 6.0], [7.02, 6.0, 6.0]], cell=[14.0, 12.0, 12.0])
    write_data(atoms, file.parent / "data.atoms", ["Ni", "O"])
    deck = START.format(file=file) + "neigh_modify delay 100 every 100 check no\n"
    deck += "group first id 1\nfix move first move linear 19.6 0 0\ntimestep 0.1\nrun 1\n"
    deck += "print 'STATE $(pe:%.16g) $(fx[1]:%.16g) $(fx[2]:%.16g) $(x[2]-x[1]:%.16g)'\n"
    run = run_lammps(file.parent, deck, num_ranks)
    assert run.code == 0, run.text[-3000:]
    line = next(line for line in run.text.splitlines() if line.startswith("STATE"))
    energy, force_1, force_2, distance = map(float, line.split()[1:])
    assert distance == pytest.approx(0.06, abs=1e-9)
    assert energy == pytest.approx(1e8 * (2 - distance / 0.1), rel=1e-12)
    assert -force_1 == force_2 == pytest.approx(1e9, rel=1e-12)
    text = " ".join(run.text.split())
    assert text.count(WARNING) == 1
    assert "atoms must be at least 0.1 A apart, but atoms" in text


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_insertions_on_top_of_an_atom(num_ranks: int, file: Path) -> None:
    """Trial insertions of `fix gcmc` less than 0.1 A from an atom: all are rejected, at any chemical potential."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    atoms.positions += 1.0
    write_data(atoms, file.parent / "data.atoms", ["Ni", "O"])
    deck = START.format(file=file) + "region spot sphere 1 1 1 0.09\n"
    deck += "fix mc all gcmc 1 20 0 1 7 300 5 0.1 full_energy region spot\nrun 2\n"
    deck += "print 'END $(atoms) $(f_mc[3]) $(f_mc[4]) $(pe)'\n"
    run = run_lammps(file.parent, deck, num_ranks)
    assert run.code == 0, run.text[-3000:]
    end = next(line.split()[1:] for line in run.text.splitlines() if line.startswith("END"))
    num_atoms, attempts, insertions, energy = map(float, end)
    assert attempts > 10
    assert (num_atoms, insertions) == (8, 0)
    assert energy < 1e3
    assert " ".join(run.text.split()).count(WARNING) == 1


def test_a_line_search_through_an_atom(tmp_path: Path) -> None:
    """Two atoms attract each other with 1 eV/A; the first trial step of the minimiser takes them to 0.05 A."""
    file = write_program(Power(1.0, 1.0), tmp_path / "program.pt", bulk("NiO", "rocksalt", a=4.17, cubic=True))
    write_data(
        Atoms("NiO", [[5.0, 6.0, 6.0], [6.0, 6.0, 6.0]], cell=[14.0, 12.0, 12.0]), tmp_path / "data.atoms", ["Ni", "O"]
    )
    deck = START.format(file=file) + "min_style cg\nmin_modify dmax 0.475 line backtrack\nminimize 0 1e-6 5 20\n"
    run = run_lammps(tmp_path, deck + "print 'ENERGY $(pe:%.16g)'\n", 2)
    assert run.code == 0, run.text[-3000:]
    energy = float(next(line.split()[1] for line in run.text.splitlines() if line.startswith("ENERGY")))
    assert -3.9 < energy < -3.2
    assert " ".join(run.text.split()).count(WARNING) == 1
