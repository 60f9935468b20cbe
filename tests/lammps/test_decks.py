"""The input scripts of examples/lammps_decks: each gives the sum of its parts, or the numbers of Python."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from export_files import exported
from lammps_run import BIN, DUMP, OUTPUT, environment_of, read_dump, read_result, run_lammps
from numpy.typing import NDArray

from uip import Calculator
from uip.units import EV_PER_A3_TO_GPA

DECKS = Path(__file__).parents[2] / "examples" / "lammps_decks"
ONE_RUN = pytest.mark.xdist_group("decks")

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True).repeat((1, 1, 2))
ATOMS.rattle(0.08, seed=3)
ATOMS.positions += 0.5

OVERLAYS = {
    "d3": ("dispersion/d3 bj pbe 12.0 10.0", "pair_coeff * * Ni O"),
    "zbl": ("zbl 1.6 2.4", "pair_coeff 1 1 28 28\npair_coeff 1 2 28 8\npair_coeff 2 2 8 8"),
    "coul": ("coul/long 6.0", "pair_coeff * *\nkspace_style pppm 1.0e-6"),
}
"""Deck: the second style alone, with the cutoffs that the tests give to the deck."""
CUTOFFS = {
    "d3": 'variable cutoffs index "12.0 10.0"',
    "zbl": 'variable cutoffs index "1.6 2.4"',
    "coul": "variable cutoff index 6.0",
}
CHARGES = (
    "fix charges all property/atom q ghost yes\nread_data oxide.data\nset type 1 charge 1.2\nset type 2 charge -1.2"
)
DYNAMICS = {
    "frozen": "variable steps index 20\nvariable height index 2.0",
    "melt": "variable steps index 20\nvariable hot index 1500\nvariable dt index 0.0005\nvariable every index 1",
    "gcmc": "variable steps index 3\nvariable mu index 50.0",
}
"""Deck: variables of a short run."""


def start(name: str) -> str:
    return f"\nclear\nlog log.{name}\n"


def end(name: str) -> str:
    """Writes what `read_result` reads."""
    return f"{OUTPUT}\nrun 0\n{DUMP.format(name=name, more='id')}"


def parts(name: str) -> str:
    """The second style of an overlay alone."""
    style, coeff = OVERLAYS[name]
    read = CHARGES if name == "coul" else "read_data oxide.data"
    return f"{start(f'{name}_alone')}units metal\n{read}\npair_style {style}\n{coeff}\n{end(f'{name}_alone')}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts for one partition, one after the other in one start of LAMMPS on two ranks."""
    folder = tmp_path_factory.mktemp("decks")
    write_data(folder)
    model = exported("random", ".pt")
    text = f"variable model index {model}\n{start('uip')}units metal\nread_data oxide.data\n"
    text += f"pair_style uip\npair_coeff * * {model} Ni O\n{end('uip')}"
    for name in OVERLAYS:
        variables = f"variable steps delete\nvariable steps index 0\n{CUTOFFS[name]}\n"
        text += f"{start(name)}{variables}include in.{name}\n{end(name)}variable cutoffs delete\n{parts(name)}"
    text += f"{start('elastic')}variable iterations index 0\ninclude in.elastic\n"
    for name, variables in DYNAMICS.items():
        text += f"{start(name)}variable steps delete\n{variables}\nthermo 1\ninclude in.{name}\n{end(name)}"
    run = run_lammps(folder, text.replace("variable steps delete", "", 1), 2)
    assert run.code == 0, run.text[-3000:]
    return folder


def write_data(folder: Path) -> None:
    for deck in DECKS.glob("in.*"):
        shutil.copy(deck, folder)
    ase.io.write(folder / "oxide.data", ATOMS, format="lammps-data", specorder=["Ni", "O"], masses=True)


def column(folder: Path, name: str, title: str) -> NDArray[np.float64]:
    """Of the thermo output of the deck `name`, all runs but the last, which the test added."""
    values: list[float] = []
    for block in re.findall(r"^ +(Step .*?)^Loop", (folder / f"log.{name}").read_text(), re.M | re.S)[:-1]:
        head, *rows = [line.split() for line in block.splitlines() if "WARNING" not in line]
        values += [float(row[head.index(title)]) for row in rows]
    return np.array(values)


@functools.cache
def calculator() -> Calculator:
    return Calculator(exported("random", ".pt"))


def atoms_of(rows: NDArray[np.float64], columns: slice, types: NDArray[np.float64]) -> Atoms:
    symbols = ["Ni" if kind == 1 else "O" for kind in types]
    return Atoms(symbols, rows[:, columns], cell=ATOMS.cell, pbc=True, calculator=calculator())


@pytest.mark.slow
@ONE_RUN
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_the_sum_of_its_styles(name: str, folder: Path) -> None:
    both, model, other = (read_result(folder, part) for part in (name, "uip", f"{name}_alone"))
    assert np.abs(other.forces).max() > 1e-3
    np.testing.assert_allclose(both.forces, model.forces + other.forces, atol=1e-9)
    np.testing.assert_allclose(both.node_energy, model.node_energy + other.node_energy, atol=1e-9)
    np.testing.assert_allclose(both.virial, model.virial + other.virial, atol=1e-8)
    assert both.thermo["pe"] == pytest.approx(model.thermo["pe"] + other.thermo["pe"], abs=1e-9)


@pytest.mark.slow
@ONE_RUN
def test_elastic_constants(folder: Path) -> None:
    """Differences of Python's stress in the same cells, with atoms that are not relaxed."""
    found = re.findall(r"^C \w\w (.*)$", (folder / "log.elastic").read_text(), re.M)
    step, expected = 0.005, np.zeros((6, 6))
    for j, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (2, 1), (2, 0), (1, 0))):
        for sign in (1, -1):
            strained, strain = ATOMS.copy(), np.eye(3)
            strain[a, b] += sign * step
            strained.set_cell(ATOMS.cell.array @ strain, scale_atoms=True)
            strained.calc = calculator()
            expected[j] += sign * strained.get_stress() / (2 * step) * EV_PER_A3_TO_GPA
    np.testing.assert_allclose([list(map(float, row.split())) for row in found], expected, rtol=1e-5, atol=1e-4)
    assert np.abs(expected).max() > 10.0


@pytest.mark.slow
@ONE_RUN
def test_frozen_atoms_stay_and_act_on_the_others(folder: Path) -> None:
    result = read_result(folder, "frozen")
    frozen = ATOMS.positions[:, 2] < 2.0
    moved = np.abs(result.positions - ATOMS.positions).max(1)
    assert moved[frozen].max() < 1e-12
    assert moved[~frozen].min() > 1e-3
    atoms = Atoms(ATOMS.numbers, result.positions, cell=ATOMS.cell, pbc=True, calculator=calculator())
    np.testing.assert_allclose(result.forces[~frozen], atoms.get_forces()[~frozen], atol=1e-8)
    assert np.all(result.forces[frozen] == 0.0)
    total, kinetic = column(folder, "frozen", "TotEng"), column(folder, "frozen", "KinEng")
    assert np.ptp(total) < 0.02 * np.ptp(kinetic)


@pytest.mark.slow
@ONE_RUN
def test_melt_and_quench(folder: Path) -> None:
    """Three stages of one trajectory; while the temperature is held, energy and heat together are conserved."""
    temperature, conserved, total = (column(folder, "melt", title) for title in ("Temp", "Econserve", "TotEng"))
    assert len(temperature) == 3 * 21
    assert np.ptp(conserved[21:42]) < 0.01 * np.ptp(total[21:42])
    assert temperature[0] == pytest.approx(600.0)
    assert temperature[21] == pytest.approx(temperature[20])
    assert temperature[41] > 1.2 * temperature[0]
    result = read_result(folder, "melt")
    atoms = Atoms(ATOMS.numbers, result.positions, cell=ATOMS.cell, pbc=True, calculator=calculator())
    assert result.thermo["pe"] == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    assert f"{len(ATOMS)} atoms" in (folder / "quenched.data").read_text()


@pytest.mark.slow
@ONE_RUN
def test_insertions_keep_their_distance(folder: Path) -> None:
    """At a high chemical potential all insertions but those too close are accepted; energies are those of what is
    there."""
    rows = read_dump(folder / "dump.gcmc")[-1]
    atoms = atoms_of(rows, slice(3, 6), rows[:, 2])
    attempts, insertions = (column(folder, "gcmc", f"f_exchange[{k}]")[-1] for k in (3, 4))
    assert attempts > insertions > 0
    assert len(atoms) == len(ATOMS) + insertions - column(folder, "gcmc", "f_exchange[6]")[-1]
    distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
    assert distances.min() >= 1.2
    assert column(folder, "gcmc", "PotEng")[-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


@pytest.mark.slow
def test_nudged_elastic_band(tmp_path: Path) -> None:
    """Three replicas: their energies in log.lammps are those of Python at the positions of each."""
    write_data(tmp_path)
    moved = ATOMS.positions[0] + [0.4, 0.1, 0.0]
    (tmp_path / "final.coords").write_text(f"1\n1 {moved[0]} {moved[1]} {moved[2]}\n")
    words = ("-partition", "3x1", "-var", "steps", "5", "-var", "model", str(exported("random", ".pt")))
    run = run_lammps(tmp_path, (DECKS / "in.neb").read_text(), 3, *words)
    assert run.code == 0, run.text[-3000:]
    lines = [line.split() for line in (tmp_path / "log.lammps").read_text().splitlines()]
    head = next(line for line in lines if "EBF" in line)
    last = [line for line in lines if len(line) == len(head) and line[0].isdigit()][-1]
    for k in range(3):
        rows = read_dump(tmp_path / f"replica.{k + 1}.dump")[-1]
        energy = atoms_of(rows, slice(2, 5), rows[:, 1]).get_potential_energy()
        assert float(last[head.index(f"PE{k + 1}")]) == pytest.approx(energy, rel=1e-6)


@pytest.mark.slow
def test_path_integrals(tmp_path: Path) -> None:
    """Two beads: each has the model's energy at its own positions, and springs keep them together."""
    write_data(tmp_path)
    words = ("-partition", "2x1", "-var", "steps", "10", "-var", "model", str(exported("random", ".pt")))
    run = run_lammps(tmp_path, (DECKS / "in.pimd").read_text(), 2, *words)
    assert run.code == 0, run.text[-3000:]
    beads = []
    for k in range(2):
        rows = read_dump(tmp_path / f"bead.{k + 1}.dump")[-1]
        beads.append(rows[:, 2:5])
        lines = [line.split() for line in (tmp_path / f"log.lammps.{k}").read_text().splitlines()]
        last = [line for line in lines if len(line) == 5 and line[0] == "10"][-1]
        energy = atoms_of(rows, slice(2, 5), rows[:, 1]).get_potential_energy()
        assert float(last[2]) == pytest.approx(energy, rel=1e-5)
        assert float(last[3]) == pytest.approx(energy, rel=1e-5)
    assert 1e-4 < np.abs(beads[0] - beads[1]).max() < 0.5


def test_lammps_as_a_library(tmp_path: Path) -> None:
    write_data(tmp_path)
    command = [sys.executable, str(DECKS / "forces.py"), "oxide.data", str(exported("random", ".pt")), "Ni", "O"]
    environment = environment_of({"LD_LIBRARY_PATH": f"{BIN.parent / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"})
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    numbers = [float(word) for word in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", run.stdout)]
    atoms = ATOMS.copy()
    atoms.calc = calculator()
    assert numbers[0] == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    atoms.positions[0, 0] += 0.1
    assert numbers[1] == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    assert numbers[2:5] == pytest.approx(atoms.get_forces()[0].tolist(), abs=1e-8)


def test_all_decks_are_tested() -> None:
    tested = {*OVERLAYS, *DYNAMICS, "elastic", "neb", "pimd"}
    assert {deck.suffix.removeprefix(".") for deck in DECKS.glob("in.*")} == tested
