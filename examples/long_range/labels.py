"""Labels of charged particles: Coulomb energy plus a short repulsion, by OpenMM's Reference platform in float64.

    E = sum_(i<j) q_i q_j / (4 pi eps0 r_ij)  +  sum_(i<j) B exp(-r_ij / rho) S(r_ij)

In a periodic box the first sum is Ewald's (tinfoil boundary). S goes from 1 at 3.5 A to 0 at 4.5 A (OpenMM's switching
function), so that the repulsion is the same in boxes of all sizes. Pairs inside a molecule have neither term.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openmm
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from openmm import unit

from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL

REPULSION, DECAY = 500.0, 0.32
"""B in eV and rho in A: at 2.2 A, the shortest distance in the sets, the repulsion is half of the attraction."""
SWITCH, CUTOFF = 3.5, 4.5
"""A; of the repulsion."""
TOLERANCE = 1e-7
"""Relative, of the forces of the Ewald sum."""


def labelled(atoms: Atoms, charges: np.ndarray, molecules: Sequence[Sequence[int]] = ()) -> Atoms:
    """A copy of `atoms` with energy (eV) and forces (eV/A).

    Args:
        charges: of the atoms, (N,) e; their sum must be 0 in a periodic box.
        molecules: atoms that belong together, without interactions among them.

    Raises:
        ValueError: a periodic box that is too small for the repulsion, or charged.
    """
    system = openmm.System()
    for _ in atoms:
        system.addParticle(1.0)
    if atoms.pbc.all():
        check_box(atoms, charges)
        system.setDefaultPeriodicBoxVectors(*(A_TO_NM * atoms.cell.array))
    pairs = [(i, j) for members in molecules for k, i in enumerate(members) for j in members[:k]]
    system.addForce(coulomb(atoms, charges, pairs))
    system.addForce(repulsion(atoms, pairs))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(A_TO_NM * atoms.positions)
    state = context.getState(getEnergy=True, getForces=True)
    result = atoms.copy()
    result.info["charge"] = round(float(np.sum(charges)))
    values = (state.getPotentialEnergy(), state.getForces(asNumpy=True))
    energy, forces = (value.value_in_unit_system(unit.md_unit_system) for value in values)  # kJ/mol, kJ/mol/nm
    labels = {"energy": energy / EV_TO_KJ_PER_MOL, "forces": forces * (A_TO_NM / EV_TO_KJ_PER_MOL)}
    result.calc = SinglePointCalculator(result, **labels)
    return result


def check_box(atoms: Atoms, charges: np.ndarray) -> None:
    """What the sums need."""
    length, total = min(atoms.cell.lengths()), float(np.sum(charges))
    if length < 2 * CUTOFF:
        raise ValueError(f"a periodic box must be at least {2 * CUTOFF:g} A long, got {length:g} A; add ions")
    if abs(total) > 1e-9:
        raise ValueError(f"the charges in a periodic box must add up to 0, got {total:g}")


def coulomb(atoms: Atoms, charges: np.ndarray, left_out: list[tuple[int, int]]) -> openmm.NonbondedForce:
    """The first sum."""
    force = openmm.NonbondedForce()
    for charge in charges:
        force.addParticle(float(charge), 0.1, 0.0)
    for i, j in left_out:
        force.addException(i, j, 0.0, 0.1, 0.0)
    if atoms.pbc.all():
        force.setNonbondedMethod(openmm.NonbondedForce.Ewald)
        force.setCutoffDistance(0.49 * min(atoms.cell.lengths()) * A_TO_NM)
        force.setEwaldErrorTolerance(TOLERANCE)
    return force


def repulsion(atoms: Atoms, left_out: list[tuple[int, int]]) -> openmm.CustomNonbondedForce:
    """The second sum."""
    force = openmm.CustomNonbondedForce("strength * exp(-r / decay)")
    force.addGlobalParameter("strength", REPULSION * EV_TO_KJ_PER_MOL)
    force.addGlobalParameter("decay", DECAY * A_TO_NM)
    for _ in atoms:
        force.addParticle([])
    for i, j in left_out:
        force.addExclusion(i, j)
    periodic = bool(atoms.pbc.all())
    force.setNonbondedMethod(force.CutoffPeriodic if periodic else force.CutoffNonPeriodic)
    force.setCutoffDistance(CUTOFF * A_TO_NM)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(SWITCH * A_TO_NM)
    return force
