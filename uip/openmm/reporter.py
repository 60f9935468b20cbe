"""The instantaneous pressure tensor, exact, from the model's own virial:

    P = (sum_k m_k v_k (x) v_k + W) / V        W = -dE / d eps

OpenMM itself has pressures by finite differences of the energy, and no tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from uip.openmm.force import find_forces
from uip.openmm.plugin import is_uip
from uip.units import EV_TO_KJ_PER_MOL

TO_BAR = (unit.kilojoule_per_mole / unit.AVOGADRO_CONSTANT_NA / unit.nanometer**3).value_in_unit(unit.bar)
"""1 kJ/mol/nm^3 in bar."""

WITHOUT_ENERGY = (
    openmm.CMMotionRemover,
    openmm.AndersenThermostat,
    openmm.MonteCarloBarostat,
    openmm.MonteCarloAnisotropicBarostat,
    openmm.MonteCarloFlexibleBarostat,
    openmm.MonteCarloMembraneBarostat,
)


def not_covered(system: openmm.System) -> list[str]:
    """What adds to the pressure of a System but is no part of `pressure_tensor`."""
    others = [
        force.getName()
        for force in system.getForces()
        if not is_uip(force) and not isinstance(force, WITHOUT_ENERGY) and not _holds_uip(force)
    ]
    if system.getNumConstraints():
        others.append(f"{system.getNumConstraints()} constraints")
    return others


def _holds_uip(force: openmm.Force) -> bool:
    return isinstance(force, openmm.CustomCVForce) and all(
        is_uip(force.getCollectiveVariable(k)) for k in range(force.getNumCollectiveVariables())
    )


def pressure_tensor(context: openmm.Context, *, partial: bool = False) -> NDArray[np.float64]:
    """The pressure tensor of the present state, (3, 3) bar: velocities of all particles, virial of all UipForces.

    Args:
        partial: leave out what `not_covered` names, instead of refusing.

    Raises:
        ValueError: not periodic, no UipForce, or other forces or constraints.
    """
    system = context.getSystem()
    views = find_forces(context)
    if not views or not system.usesPeriodicBoundaryConditions():
        raise ValueError("a pressure needs a periodic System with a UipForce; this one lacks one of them")
    _check_coverage(not_covered(system), partial)
    state = context.getState(getVelocities=True)
    masses = np.array([system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(system.getNumParticles())])
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    kinetic = np.einsum("n,nk,nl->kl", masses, velocities, velocities)
    virial = sum(view.weight * view.virial for view in views) * EV_TO_KJ_PER_MOL
    if np.isnan(virial).any():
        raise ValueError(
            "the weight of the UipForce inside of a CustomCVForce must be known for its part of the pressure; "
            "make it with create_force(..., scale_parameter=...)"
        )
    return (kinetic + virial) / state.getPeriodicBoxVolume().value_in_unit(unit.nanometer**3) * TO_BAR


def _check_coverage(others: list[str], partial: bool) -> None:
    if others and not partial:
        raise ValueError(
            f"the exact pressure covers kinetic energy and UipForces, but the System also has {', '.join(others)}; "
            "say partial=True for the model's part alone, or use computeCurrentPressure of a barostat"
        )


class PressureReporter:
    """Writes the pressure and its tensor to a table: add it to `Simulation.reporters`.

    Columns: step, pressure, xx yy zz yz xz xy in bar. A comment at the top says what they cover.

    Args:
        file: a path, or an open text file.
        interval: steps between lines.
        partial: see `pressure_tensor`.
    """

    def __init__(self, file: Path | str | TextIO, interval: int, *, partial: bool = False) -> None:
        self.interval, self.partial = interval, partial
        self._opened = isinstance(file, (str, Path))
        self._file: TextIO = open(file, "w") if isinstance(file, (str, Path)) else file  # noqa: SIM115
        self._begun = False

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:  # noqa: N802
        """OpenMM's question: when next, and what is needed."""
        steps = self.interval - simulation.currentStep % self.interval
        return {"steps": steps, "periodic": None, "include": []}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Writes one line."""
        if not self._begun:
            self._write_head(simulation.context.getSystem())
        p = pressure_tensor(simulation.context, partial=self.partial)
        p = 0.5 * (p + p.T)
        values = [np.trace(p) / 3, p[0, 0], p[1, 1], p[2, 2], p[1, 2], p[0, 2], p[0, 1]]
        self._file.write(" ".join([f"{simulation.currentStep:10d}", *(f"{value:14.4f}" for value in values)]) + "\n")
        self._file.flush()

    def _write_head(self, system: openmm.System) -> None:
        others = not_covered(system)
        self._file.write("# bar; covers kinetic energy and UipForces")
        self._file.write(f", not: {', '.join(others)}\n" if others else ", which is all there is\n")
        names = ("pressure", "xx", "yy", "zz", "yz", "xz", "xy")
        self._file.write(" ".join([f"{'# step':>10}", *(f"{name:>14}" for name in names)]) + "\n")
        self._begun = True

    def __del__(self) -> None:
        if getattr(self, "_opened", False):
            self._file.close()
