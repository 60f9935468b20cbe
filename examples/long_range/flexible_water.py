"""The teacher of salt water: flexible water with Na+ and Cl- as an OpenMM System, and its labels in float64.

Water is SPC/Fw (Wu, Tepper, Voth, J. Chem. Phys. 124, 024503 (2006)), ions are those of Joung and Cheatham for SPC/E
(J. Phys. Chem. B 112, 9020 (2008)), with Lorentz-Berthelot rules. Charges are summed by PME. Lennard-Jones terms are
switched off from 4.5 to 5.5 A, the same in boxes of all sizes, with OpenMM's correction for the attraction beyond.

Atoms are in the order O H H of each molecule, then Na, then Cl.
"""

from __future__ import annotations

import itertools

import numpy as np
import openmm
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from openmm import unit

from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL

CHARGES = {"O": -0.82, "H": 0.41, "Na": 1.0, "Cl": -1.0}
"""e."""
LENNARD_JONES = {
    "O": (0.3165492, 0.1554253 * 4.184),
    "H": (0.1, 0.0),
    "Na": (0.2 * 1.212 / 2 ** (1 / 6), 0.3526418 * 4.184),
    "Cl": (0.2 * 2.711 / 2 ** (1 / 6), 0.0127850 * 4.184),
}
"""sigma in nm and epsilon in kJ/mol."""
BOND = (0.1012, 1059.162 * 418.4)
"""Length of O-H in nm, and k of k / 2 (r - r0)^2 in kJ/mol/nm^2."""
ANGLE = (np.radians(113.24), 75.90 * 4.184)
"""H-O-H in rad, and k in kJ/mol/rad^2."""
SWITCH, CUTOFF = 4.5, 5.5
"""A; of the Lennard-Jones terms."""
STRAIN = 1e-4
"""Of the central differences of the stress."""


def teacher(atoms: Atoms, *, tolerance: float = 5e-4) -> openmm.System:
    """The System of a periodic box.

    Args:
        tolerance: relative error of the forces of PME.

    Raises:
        ValueError: a box that is not periodic, too small or charged, or another order of atoms.
    """
    check(atoms)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(A_TO_NM * atoms.cell.array))
    for mass in atoms.get_masses():
        system.addParticle(mass)
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    others = nonbonded(atoms.get_chemical_symbols(), tolerance)
    for oxygen in range(0, 3 * atoms.symbols.count("O"), 3):
        first, second = oxygen + 1, oxygen + 2
        bonds.addBond(oxygen, first, *BOND)
        bonds.addBond(oxygen, second, *BOND)
        angles.addAngle(first, oxygen, second, *ANGLE)
        for i, j in itertools.combinations((oxygen, first, second), 2):
            others.addException(i, j, 0.0, 0.1, 0.0)
    for force in (bonds, angles, others):
        system.addForce(force)
    return system


def check(atoms: Atoms) -> None:
    """What the System needs."""
    counts = {symbol: atoms.symbols.count(symbol) for symbol in CHARGES}
    order = ["O", "H", "H"] * counts["O"] + ["Na"] * counts["Na"] + ["Cl"] * counts["Cl"]
    if atoms.get_chemical_symbols() != order:
        raise ValueError(f"atoms must be in the order O H H of each molecule, then Na, then Cl, got {atoms.symbols}")
    if counts["Na"] != counts["Cl"]:
        raise ValueError(f"a periodic box must be neutral, got {counts['Na']} Na and {counts['Cl']} Cl")
    shortest = min(atoms.cell.lengths())
    if not atoms.pbc.all() or shortest < 2 * CUTOFF:
        raise ValueError(
            f"the box must be periodic and at least {2 * CUTOFF:g} A long, got pbc {atoms.pbc} and {shortest:.2f} A"
        )


def nonbonded(symbols: list[str], tolerance: float) -> openmm.NonbondedForce:
    """Charges and Lennard-Jones terms of the atoms."""
    force = openmm.NonbondedForce()
    for symbol in symbols:
        force.addParticle(CHARGES[symbol], *LENNARD_JONES[symbol])
    force.setNonbondedMethod(force.PME)
    force.setEwaldErrorTolerance(tolerance)
    force.setCutoffDistance(CUTOFF * A_TO_NM)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(SWITCH * A_TO_NM)
    force.setUseDispersionCorrection(True)
    return force


class Labels:
    """Labels structures that differ in positions only; one Context, Reference platform, float64."""

    def __init__(self, atoms: Atoms) -> None:
        system = teacher(atoms, tolerance=5e-5)
        platform = openmm.Platform.getPlatformByName("Reference")
        self.context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

    def __call__(self, atoms: Atoms) -> Atoms:
        """A copy of `atoms` with energy (eV), forces (eV/A) and stress (eV/A^3, positive under tension)."""
        result = atoms.copy()
        stress = np.empty((3, 3))
        for a, b in itertools.combinations_with_replacement(range(3), 2):
            ends = [self._energy(atoms, b, a, sign * STRAIN) for sign in (1, -1)]
            stress[a, b] = stress[b, a] = (ends[0] - ends[1]) / (2 * STRAIN * atoms.get_volume())
        energy = self._energy(atoms, 0, 0, 0.0)
        forces = self.context.getState(getForces=True).getForces(asNumpy=True)
        forces = forces.value_in_unit_system(unit.md_unit_system) * (A_TO_NM / EV_TO_KJ_PER_MOL)
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        result.calc = SinglePointCalculator(result, energy=energy, forces=forces, stress=voigt)
        return result

    def _energy(self, atoms: Atoms, row: int, column: int, strain: float) -> float:
        """eV; with vectors v to v (1 + strain e_row e_column): lower triangular, as OpenMM has its boxes."""
        change = np.eye(3)
        change[row, column] += strain
        self.context.setPeriodicBoxVectors(*(A_TO_NM * atoms.cell.array @ change))
        self.context.setPositions(A_TO_NM * atoms.positions @ change)
        state = self.context.getState(getEnergy=True)
        return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)) / EV_TO_KJ_PER_MOL
