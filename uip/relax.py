"""Relaxes structures with ASE's optimisers: atoms alone, or atoms and cell (`FrechetCellFilter`).

relaxed = relax(atoms, Calculator("chgnet-0.3.0"), cell=True, fmax=0.01)
relaxed.atoms, relaxed.converged, relaxed.steps
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS
from ase.optimize.optimize import Optimizer

from uip.calculator import Calculator
from uip.units import EV_PER_A3_TO_GPA

OPTIMIZERS: dict[str, type[Optimizer]] = {"fire": FIRE, "lbfgs": LBFGS}
KEPT = ("energy", "forces", "stress", "magmoms")
"""Results that the relaxed structure keeps."""

Report = Callable[[int, float], object]
"""Called after each step with its number and the largest force, eV/A."""


@dataclass(frozen=True)
class Relaxed:
    """A structure after its relaxation."""

    atoms: ase.Atoms
    """With energy, forces, stress and magnetic moments of the last step."""
    converged: bool
    steps: int
    max_force: float
    """eV/A; with `cell` the largest of forces on atoms and on the cell."""
    energy_change: float
    """eV; of the energy, without p V."""
    volume_change: float
    """Relative; 0 without three cell vectors."""


def relax(
    atoms: ase.Atoms,
    calculator: Calculator,
    *,
    cell: bool = False,
    fmax: float = 0.01,
    steps: int = 500,
    optimizer: str = "fire",
    pressure: float = 0.0,
    report: Report | None = None,
) -> Relaxed:
    """The relaxed copy of `atoms`; constraints of `atoms` hold.

    Args:
        cell: relax the cell too.
        fmax: eV/A; relaxed if no force is larger, with `cell` also none on the cell: the strain derivative of the
            enthalpy over the number of atoms, as ASE's filter scales it. Forces then refer to the cell at the start.
        steps: largest number of steps.
        optimizer: "fire", which seldom fails, or "lbfgs", which often needs fewer steps.
        pressure: GPa, on the cell.

    Raises:
        ValueError: an unknown optimizer, `fmax` or `steps` not above 0, a pressure without `cell`, `cell` without three
            cell vectors or of a model without stress, atoms that come too close.
        FloatingPointError: the model's energy or forces are not finite numbers.
    """
    check_arguments(cell=cell, fmax=fmax, steps=steps, optimizer=optimizer, pressure=pressure)
    moving = atoms.copy()
    moving.calc = calculator
    if cell:
        _check_cell(moving, calculator)
    start_energy, start_volume = moving.get_potential_energy(), moving.cell.volume
    target = FrechetCellFilter(moving, scalar_pressure=pressure / EV_PER_A3_TO_GPA) if cell else moving
    run = OPTIMIZERS[optimizer](target, logfile=None)  # type: ignore[arg-type]  # a filter is used like atoms
    if report is not None:
        run.attach(lambda: report(run.nsteps, _largest(target)))
    converged = run.run(fmax=fmax, steps=steps)
    force = _largest(target)
    _keep_results(moving, calculator)
    volume = moving.cell.volume / start_volume - 1.0 if start_volume > 0 else 0.0
    energy = float(moving.get_potential_energy() - start_energy)
    return Relaxed(moving, bool(converged), run.nsteps, force, energy, float(volume))


def _largest(target: ase.Atoms | FrechetCellFilter) -> float:
    return float(np.linalg.norm(target.get_forces(), axis=1).max())


def check_arguments(*, cell: bool, fmax: float, steps: int, optimizer: str, pressure: float) -> None:
    """Raises ValueError as `relax`, for what is independent of the structure."""
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"the optimizer must be {' or '.join(OPTIMIZERS)}, got '{optimizer}'")
    if not fmax > 0.0:
        raise ValueError(f"fmax, the largest force of a relaxed structure, must be above 0 eV/A, got {fmax}")
    if steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {steps}")
    if pressure and not cell:
        raise ValueError(f"a pressure acts on the cell, but only atoms are relaxed; add --cell, got {pressure} GPa")


def _check_cell(atoms: ase.Atoms, calculator: Calculator) -> None:
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise ValueError(
            "relaxing the cell needs three periodic cell vectors, but the structure lacks them; leave --cell out"
        )
    if "stress" not in calculator.implemented_properties:
        raise ValueError(f"relaxing the cell needs a stress, but '{calculator.name}' has none; leave --cell out")


def _keep_results(atoms: ase.Atoms, calculator: Calculator) -> None:
    """In place of the calculator, which the next structure uses."""
    atoms.get_potential_energy()
    values = {name: calculator.results[name] for name in KEPT if name in calculator.results}
    atoms.calc = SinglePointCalculator(atoms, **values)
