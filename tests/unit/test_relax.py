"""`uip relax`: relaxed structures, what is written of those that fail, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import systems
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read, write
from typer.testing import CliRunner, Result

from uip import Calculator
from uip.cli.app import app
from uip.relax import relax
from uip.units import EV_PER_A3_TO_GPA


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def silicon(a: float = 5.60) -> Atoms:
    """Two atoms, stretched and out of place."""
    atoms = bulk("Si", a=a)
    atoms.positions[1] += [0.08, -0.05, 0.03]
    return atoms


@pytest.fixture(scope="module")
def calculator() -> Calculator:
    return Calculator("chgnet-0.3.0")


@pytest.mark.parametrize(("optimizer", "fmax", "pressure"), [("fire", 0.1, 0.0), ("lbfgs", 0.05, 5.0)])
def test_cell_and_atoms(calculator: Calculator, optimizer: str, fmax: float, pressure: float) -> None:
    seen = []
    start = silicon()
    found = relax(
        start,
        calculator,
        cell=True,
        fmax=fmax,
        optimizer=optimizer,
        pressure=pressure,
        report=lambda step, force: seen.append((step, force)),
    )
    assert found.converged
    assert seen[-1] == (found.steps, pytest.approx(found.max_force))
    assert found.max_force <= fmax
    atoms = found.atoms
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 1.1 * fmax  # the filter's refer to the first cell
    # the filter's force on the cell is V (stress + p) / N, in eV
    wanted = -np.array([1, 1, 1, 0, 0, 0]) * pressure / EV_PER_A3_TO_GPA
    assert np.abs(atoms.get_stress() - wanted).max() * atoms.get_volume() / len(atoms) <= 1.01 * fmax
    assert found.volume_change == pytest.approx(atoms.get_volume() / start.get_volume() - 1)
    assert found.volume_change < -0.05
    assert np.array_equal(start.positions, silicon().positions)


def test_atoms_alone_keep_cell_and_constraints(calculator: Calculator) -> None:
    start = silicon()
    start.set_constraint(FixAtoms([0]))
    found = relax(start, calculator, fmax=0.05)
    assert found.converged
    assert found.energy_change < -0.01
    assert np.array_equal(found.atoms.cell, start.cell)
    assert np.array_equal(found.atoms.positions[0], start.positions[0])
    assert found.volume_change == 0.0


def test_command(tmp_path: Path) -> None:
    """One relaxes, one cannot be computed, one has no cell, one needs more steps."""
    twins = Atoms("Si2", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.01]], cell=[5.0] * 3, pbc=True)
    write(tmp_path / "in.xyz", [silicon(5.44), twins, systems.water(), silicon(6.2)])
    output = tmp_path / "out.xyz"
    arguments = (
        "relax",
        tmp_path / "in.xyz",
        "--cell",
        "--fmax",
        0.3,
        "--steps",
        4,
        "--optimizer",
        "lbfgs",
        "-o",
        output,
    )
    result = run(*arguments)
    assert result.exit_code == 1
    text = " ".join(result.stderr.split())
    assert "in.xyz, structure 1: atoms must be at least 0.1 A apart" in text
    assert "in.xyz, structure 2: relaxing the cell needs three periodic cell vectors" in text
    assert "in.xyz, structure 3: not converged" in text
    assert "after 4 steps; use more --steps" in text
    first, last = read(output, ":")
    assert (first.info["converged"], last.info["converged"]) == (True, False)
    assert np.linalg.norm(first.get_forces(), axis=1).max() <= 0.3
    assert "4, not converged" in result.stdout
    assert "exists; choose another name, or add --force" in run(*arguments).stderr


def test_json_and_a_committee(tmp_path: Path) -> None:
    write(tmp_path / "si.cif", silicon(5.46))
    models = ("-m", "chgnet-0.3.0", "-m", "chgnet-r2scan")
    (row,) = json.loads(run("relax", tmp_path / "si.cif", *models, "--fmax", 0.5, "--json").stdout)
    assert (row["formula"], row["converged"], row["volume_change"]) == ("Si2", True, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "newton"], "the optimizer must be fire or lbfgs, got 'newton'"),
        (["--fmax", "0"], "must be above 0 eV/A, got 0.0"),
        (["--steps", "0"], "the number of steps must be at least 1, got 0"),
        (["--pressure", "5"], "a pressure acts on the cell, but only atoms are relaxed; add --cell, got 5.0 GPa"),
        (["-o", "out.cif"], "the output file must end in .xyz or .extxyz"),
        ([], "no such file: absent.xyz"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    result = run("relax", "absent.xyz", *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_a_model_without_stress() -> None:
    calculator = Calculator("chgnet-0.3.0", forces=False)
    with pytest.raises(ValueError, match=r"relaxing the cell needs a stress, but .* has none"):
        relax(silicon(), calculator, cell=True)
