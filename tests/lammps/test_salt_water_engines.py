"""A snapshot of salt water has one energy and the same forces in all engines with `saltwater-mini`; the demo runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import demo_water
import numpy as np
import openmm
import pytest
import salt_water
from ase import Atoms
from export_files import exported
from lammps_run import DUMP, OUTPUT, read_result, run_lammps
from openmm import unit

from uip import Calculator
from uip.openmm import create_force
from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL

MODEL = "saltwater-mini"
BOX = salt_water.Box(waters=46, pairs=1, density=1.0, temperature=300.0)


@pytest.fixture(scope="module")
def snapshot() -> Atoms:
    """The teacher's, after 0.1 ps."""
    atoms = BOX.start(np.random.default_rng(0))
    context = salt_water.simulation(atoms, BOX.temperature, seed=1)
    context.getIntegrator().step(100)
    positions = context.getState(getPositions=True).getPositions(asNumpy=True)
    atoms.positions = positions.value_in_unit(unit.angstrom)
    return atoms


def energy_of(atoms: Atoms, model: Path) -> float:
    """Of ASE's calculator, eV."""
    copy = atoms.copy()
    copy.calc = Calculator(model)
    return float(copy.get_potential_energy())


def in_openmm(atoms: Atoms, model: Path) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(A_TO_NM * atoms.cell.array))
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(create_force(model, atoms.numbers, periodic=True))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(A_TO_NM * atoms.positions)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True)._value * (A_TO_NM / EV_TO_KJ_PER_MOL)
    return state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL, forces


def in_lammps(atoms: Atoms, model: Path, folder: Path, num_ranks: int) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A."""
    atoms.write(folder / "salt_water.data", format="lammps-data", specorder=demo_water.ORDER, masses=True)
    deck = f"""
units metal
read_data salt_water.data
pair_style uip
pair_coeff * * {model} {" ".join(demo_water.ORDER)}
log log.{num_ranks}
{OUTPUT}
run 0
{DUMP.format(name=num_ranks, more="")}
"""
    run = run_lammps(folder, deck, num_ranks)
    assert run.code == 0, run.text
    result = read_result(folder, str(num_ranks))
    return result.thermo["pe"], result.forces


@pytest.mark.slow
def test_one_energy_and_the_same_forces_everywhere(snapshot: Atoms, tmp_path: Path) -> None:
    """ASE, OpenMM, LAMMPS on one and two ranks, float64. Data files have 16 digits."""
    model = exported(MODEL, ".pt")
    atoms = snapshot.copy()
    atoms.calc = Calculator(model)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert np.abs(forces).max() > 0.1
    found = [in_openmm(snapshot, model)] + [in_lammps(snapshot, model, tmp_path, ranks) for ranks in (1, 2)]
    for one in found:
        assert one[0] == pytest.approx(energy, rel=1e-9)
        assert one[1] == pytest.approx(forces, abs=1e-7)


@pytest.mark.slow
def test_the_demo_runs_in_both_engines(snapshot: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps, two between frames, from one snapshot; and the figure."""
    shutil.copy(demo_water.FOLDER / "in.salt_water", tmp_path)
    for name, value in {"FOLDER": tmp_path, "FIGURE": tmp_path / "figure.png", "EVERY": 2}.items():
        monkeypatch.setattr(demo_water, name, value)
    model = exported(MODEL, ".pt")
    lammps, in_openmm = demo_water.run_lammps(model, snapshot, 6), demo_water.run_openmm(model, snapshot, 6)
    (first,) = re.findall(r"^ +0 +0 +300 +(\S+)", (tmp_path / "log.lammps").read_text(), re.M)
    assert float(first) == pytest.approx(energy_of(snapshot, model), rel=1e-6)  # types have the elements of the deck
    assert [len(lammps), len(in_openmm)] == [4, 3]  # LAMMPS also writes the first step
    for frames in (lammps, in_openmm):
        assert (frames[0].numbers == snapshot.numbers).all()
        assert frames[0].cell.array == pytest.approx(snapshot.cell.array, abs=1e-4)
        moved = frames[-1].positions - snapshot.positions
        moved -= np.round(moved / snapshot.cell.lengths()) * snapshot.cell.lengths()
        assert 1e-4 < np.abs(moved).max() < 1.0
    assert demo_water.seconds_per_step() > 0
    curves = {"teacher": [demo_water.radial([snapshot], pair) for pair in demo_water.PAIRS]}
    demo_water.draw(curves, demo_water.FIGURE)
    demo_water.report(curves)
    assert demo_water.FIGURE.exists()


def test_the_demo_ends_with_the_message_of_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_water, "FOLDER", tmp_path)
    with pytest.raises(SystemExit):
        demo_water.export("saltwater-mni")
    assert "unknown model 'saltwater-mni'" in capfd.readouterr().err
