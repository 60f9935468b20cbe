"""Copper: EMT of ASE in place of DFT, first structures to label, structures to test on, and dynamics of a model."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

TEMPERATURES = (300, 900, 1500, 2400)
"""K, of dynamics; EMT's copper melts between the second and the last."""
CLOSEST = 1.6
"""A; dynamics end when two atoms come closer: such structures are of no use."""


def label(atoms: Atoms) -> Atoms:
    """A copy with energy, forces and stress: what a DFT code would be asked for."""
    labelled = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    labelled.calc = EMT()
    values = {
        "energy": labelled.get_potential_energy(),
        "forces": labelled.get_forces(),
        "stress": labelled.get_stress(),
    }
    labelled.calc = SinglePointCalculator(labelled, **values)
    return labelled


def crystal(rng: np.random.Generator) -> Atoms:
    """Eight atoms in a cell with a random volume."""
    atoms = bulk("Cu", a=3.61 * rng.uniform(0.98, 1.05)).repeat(2)
    atoms.rattle(0.02, rng=rng)
    return atoms


def dynamics(atoms: Atoms, calculator: Calculator, temperature: float, rng: np.random.Generator) -> list[Atoms]:
    """Every fifth of 100 steps, as long as the atoms stay apart."""
    frames: list[Atoms] = []
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
    run = Langevin(atoms, 4 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, fixcm=False, rng=rng)
    try:
        for _ in range(20):
            run.run(5)
            distances = atoms.get_all_distances(mic=True)
            if distances[np.triu_indices(len(atoms), 1)].min() < CLOSEST:
                break
            frames.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    except (ValueError, FloatingPointError):  # the model failed on the way
        pass
    return frames


def first_frames(count: int, rng: np.random.Generator) -> list[Atoms]:
    """What is known at first: slightly displaced crystals."""
    return [label(crystal(rng)) for _ in range(count)]


def test_frames(rng: np.random.Generator) -> list[Atoms]:
    """From dynamics of EMT at all temperatures."""
    runs = [dynamics(crystal(rng), EMT(), temperature, rng) for temperature in TEMPERATURES for _ in range(2)]
    return [label(atoms) for frames in runs for atoms in frames[3::4]]
