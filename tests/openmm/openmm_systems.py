"""Systems of OpenMM and their numbers in uip's units, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
import openmm
import pytest
from export_files import exported
from numpy.typing import NDArray
from openmm import app, unit

from uip.openmm import create_force, topology_from_atoms
from uip.units import EV_TO_KJ_PER_MOL

AVAILABLE = {openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())}


def platforms(*, slow: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """For each platform of OpenMM, which may be absent; kernels of OpenCL take seconds to compile."""
    marks = {
        name: [pytest.mark.skipif(name not in AVAILABLE, reason=f"OpenMM finds no {name} platform on this machine")]
        for name in ("Reference", "CPU", "OpenCL")
    }
    for name in slow:
        marks[name].append(pytest.mark.slow)
    return pytest.mark.parametrize("platform", [pytest.param(name, marks=marks[name]) for name in marks])


def small() -> Path:
    """A small model with random weights, elements 1 to 30: TorchScript, float64."""
    return exported("random", ".pt", "float64")


def published_file(suffix: str = ".pt") -> Path:
    """CHGNet 0.3.0, float64; compiled (".pt2") in slow tests only."""
    return exported("chgnet-0.3.0", suffix, "float64")


def bounds(platform: str, dtype: str) -> tuple[float, float]:
    """Relative errors allowed in energy and forces: those of the file, or of positions in single precision."""
    if platform == "OpenCL":
        return 1e-6, 1e-4
    return (1e-8, 1e-8) if dtype == "float64" else (5e-5, 5e-5)


@dataclass(frozen=True)
class Case:
    """A structure as OpenMM sees it, and the same turned the same way for ASE."""

    topology: app.Topology
    positions: unit.Quantity
    atoms: ase.Atoms

    @property
    def periodic(self) -> bool:
        return self.topology.getPeriodicBoxVectors() is not None


def case_of(atoms: ase.Atoms) -> Case:
    topology, positions = topology_from_atoms(atoms)
    turned = ase.Atoms(atoms.numbers, positions.value_in_unit(unit.angstrom))
    if topology.getPeriodicBoxVectors() is not None:
        turned.cell = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.angstrom))
        turned.pbc = True
    return Case(topology, positions, turned)


def empty_system(case: Case) -> openmm.System:
    system = openmm.System()
    if case.periodic:
        system.setDefaultPeriodicBoxVectors(*case.topology.getPeriodicBoxVectors())
    for mass in case.atoms.get_masses():
        system.addParticle(mass)
    return system


def system_of(case: Case, model: Path, **settings: object) -> openmm.System:
    system = empty_system(case)
    settings = {"periodic": case.periodic, **settings}
    system.addForce(create_force(model, case.atoms.numbers, **settings))
    return system


def context_of(
    system: openmm.System, positions: unit.Quantity, platform: str = "Reference", step: float = 0.001
) -> openmm.Context:
    context = openmm.Context(system, openmm.VerletIntegrator(step), openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


def numbers_of(context: openmm.Context, groups: int = -1) -> tuple[float, NDArray[np.float64]]:
    """Energy (eV) and forces (N, 3) (eV/A) of a Context."""
    state = context.getState(getEnergy=True, getForces=True, groups=groups)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_PER_MOL
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom) / EV_TO_KJ_PER_MOL
    return energy, forces


def assert_same(
    ours: tuple[float, NDArray[np.float64]],
    other: tuple[float, NDArray[np.float64]],
    bound: tuple[float, float] = (1e-8, 1e-8),
) -> None:
    """Energy and forces agree, relative to the energy and to the largest force (or 1 eV/A)."""
    assert ours[0] == pytest.approx(other[0], rel=bound[0])
    assert np.abs(ours[1] - other[1]).max() < bound[1] * max(1.0, np.abs(other[1]).max())
