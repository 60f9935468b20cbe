"""`DeviationReporter`: the deviations of ASE's committee, in the columns of LAMMPS' file."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import systems
from ase import Atoms
from conftest import random_chgnet
from openmm import app, unit
from openmm_systems import Case, case_of, small, system_of

from uip import Calculator
from uip.checkpoint import save_checkpoint
from uip.openmm import DeviationReporter
from uip.openmm.deviation import COLUMNS, HEADER, deviation_columns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{seed}.ckpt" for seed in range(3)]
    for seed, path in enumerate(paths):
        save_checkpoint(random_chgnet(seed=seed), path)
    return paths


def simulation_of(case: Case) -> app.Simulation:
    """Driven by one model, which need not be of the committee."""
    integrator, platform = openmm.VerletIntegrator(0.002), openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(case.topology, system_of(case, small()), integrator, platform)
    simulation.context.setPositions(case.positions)
    return simulation


def atoms_now(simulation: app.Simulation, case: Case) -> Atoms:
    atoms = case.atoms.copy()
    state = simulation.context.getState(positions=True)
    atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    return atoms


def wanted(models: list[Path], atoms: Atoms) -> list[float]:
    """From separate evaluations of the members."""
    forces, virials = [], []
    for model in models:
        atoms.calc = Calculator(model)
        forces.append(atoms.get_forces())
        virials.append(-atoms.get_stress(voigt=False) * atoms.get_volume() if atoms.cell.rank == 3 else np.nan)
    of_atoms = np.sqrt(np.var(forces, axis=0).sum(1))
    virial = np.std(virials, axis=0) / len(atoms)
    return [
        *(virial.max(), virial.min(), np.sqrt((virial**2).mean())),
        *(of_atoms.max(), of_atoms.min(), of_atoms.mean()),
    ]


def test_columns_are_those_of_separate_models(models: list[Path], tmp_path: Path) -> None:
    case = case_of(systems.nio())
    simulation, text = simulation_of(case), io.StringIO()
    for file in (text, tmp_path / "devi.txt"):
        reporter = DeviationReporter(file, 2, models, case.atoms.numbers, periodic=True, dtype="float64")
        simulation.reporters.append(reporter)
    first = wanted(models, atoms_now(simulation, case))
    simulation.step(4)
    lines = text.getvalue().splitlines()
    assert lines[0].lstrip("#").split() == ["step", *COLUMNS]
    assert [int(line.split()[0]) for line in lines[1:]] == [2, 4]
    found = [float(word) for word in lines[-1].split()[1:]]
    assert found == pytest.approx(wanted(models, atoms_now(simulation, case)), rel=1e-4)
    assert found != pytest.approx(first, rel=1e-4)
    assert min(found) > 0.0
    assert (tmp_path / "devi.txt").read_text() == text.getvalue()


def test_a_part_of_the_particles(models: list[Path], tmp_path: Path) -> None:
    """Without a box; the file is continued, as of a continued simulation."""
    case = case_of(systems.water())
    part, numbers = [0, 2], case.atoms.numbers[[0, 2]]
    for _ in range(2):
        simulation = simulation_of(case)
        simulation.reporters.append(
            DeviationReporter(
                tmp_path / "devi.txt", 1, models, numbers, periodic=False, particles=part, append=True, dtype="float64"
            )
        )
        simulation.step(1)
        simulation.reporters.clear()
    lines = (tmp_path / "devi.txt").read_text().splitlines()
    assert len(lines) == 3
    assert lines[1] == lines[2]
    assert [float(word) for word in lines[1].split()[4:]] == pytest.approx(
        wanted(models, atoms_now(simulation, case)[part])[3:], rel=1e-5
    )


def test_append_after_an_incomplete_line(models: list[Path], tmp_path: Path) -> None:
    """The next line is a line of its own."""
    (tmp_path / "devi.txt").write_text(HEADER + "           1       1.4")
    case = case_of(systems.water())
    simulation = simulation_of(case)
    arguments = {"periodic": False, "append": True}
    simulation.reporters.append(DeviationReporter(tmp_path / "devi.txt", 1, models, case.atoms.numbers, **arguments))
    simulation.step(1)
    simulation.reporters.clear()
    assert [len(line.split()) for line in (tmp_path / "devi.txt").read_text().splitlines()[1:]] == [2, 7]


def test_append_to_another_file(models: list[Path], tmp_path: Path) -> None:
    """It stays as it is."""
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(ValueError, match=r"notes\.txt must be a file of deviations, but its first line is 'mine"):
        DeviationReporter(tmp_path / "notes.txt", 1, models, [8], periodic=False, append=True)
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_a_box_that_the_system_has_not(models: list[Path]) -> None:
    case = case_of(systems.water())
    simulation = simulation_of(case)
    reporter = DeviationReporter(io.StringIO(), 1, models, case.atoms.numbers, periodic=True)
    simulation.reporters.append(reporter)
    with pytest.raises(ValueError, match="`periodic` must be false for a System without periodic boundary conditions"):
        simulation.step(1)


def test_models_without_a_virial() -> None:
    values = deviation_columns({"force_deviation": np.array([0.1, 0.3])})
    assert np.isnan(values[:3]).all()
    assert values[3:] == [0.3, 0.1, 0.2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0}, "`interval` must be at least 1 step, got 0"),
        ({"models": 1}, "a committee needs at least two models, got 1"),
        ({"particles": [0]}, "must name a place for each of the 2 atomic numbers, got 1"),
        ({"particles": [0, -1]}, "`particles` must be numbers of particles, 0 or more, got [0, -1]"),
        ({"particles": [0, 1.9]}, "`particles` must be numbers of particles, 0 or more, got [0, 1.9]"),
        ({"charge": 1}, "reads no total charge, so `charge` must be 0, got 1"),
        ({"atomic_numbers": [79, 8]}, "Au"),
    ],
)
def test_mistakes(models: list[Path], arguments: dict[str, Any], message: str) -> None:
    given = {"interval": 1, "models": 2, "atomic_numbers": [28, 8], "periodic": True, **arguments}
    with pytest.raises(ValueError, match=re.escape(message)):
        DeviationReporter(io.StringIO(), models=models[: given.pop("models")], **given)
