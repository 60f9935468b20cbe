"""Writes periodic boxes of flexible water with Na+ and Cl-, labelled by the teacher of `flexible_water.py`.

    python salt_water.py                  salt_water_train.xyz, _valid, _test; about 15 min of one core

A walker is one box of random size, concentration, density and temperature, in molecular dynamics (NVT); each gives
frames 0.1 ps apart. In every fourth frame all atoms are displaced at random, so that stretched bonds and close contacts
are in the data. Every walker has random numbers of its own, from the seed and its name.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from flexible_water import Labels, teacher
from openmm import unit

from uip.units import A_TO_NM

WALKERS = {"valid": 4, "train": 90, "test": 8}
FRAMES = 16
"""Of each walker."""
WATERS, SIZES = (48, 64, 96), (0.65, 0.2, 0.15)
"""Numbers of molecules, and how often they are drawn."""
PAIRS = (0, 1, 2, 4)
"""Ion pairs for 48 molecules; 1 is 1.2 mol/kg."""
TEMPERATURES = (280.0, 300.0, 320.0, 360.0, 400.0, 450.0, 600.0)
"""K."""
DENSITIES, RISE = (0.9, 1.07), 0.05
"""g/cm^3; limits in pure water, and how much higher they are for each ion pair per 48 molecules."""
STEP = 1.0
"""fs."""
HEATING, SETTLING, BETWEEN = 500, 1000, 100
"""Steps: 300 K hotter, at the temperature before the first frame, between frames."""
DISPLACED, LARGEST = 4, 0.12
"""Every how many frames atoms are displaced, and the largest standard deviation of a component in A."""


@dataclass(frozen=True)
class Box:
    """What a walker is."""

    waters: int
    pairs: int
    density: float
    """g/cm^3."""
    temperature: float
    """K."""

    def start(self, rng: np.random.Generator) -> Atoms:
        """Molecules and ions at random places of a cubic grid, molecules in random orientations."""
        count = self.waters + 2 * self.pairs
        side = math.ceil(count ** (1 / 3))
        places = rng.permutation(np.argwhere(np.ones((side, side, side))))[:count]
        atoms = Atoms(pbc=True)
        for _ in range(self.waters):
            water = molecule("H2O")
            water.euler_rotate(*np.degrees(rng.uniform(0.0, 2 * np.pi, 3)))
            water.translate(-water.positions[0])
            atoms += water
        atoms += Atoms(["Na"] * self.pairs + ["Cl"] * self.pairs, np.zeros((2 * self.pairs, 3)))
        length = (atoms.get_masses().sum() / self.density * 1e24 / units._Nav) ** (1 / 3)
        atoms.set_cell([length] * 3)
        repeats = [3] * self.waters + [1] * (2 * self.pairs)
        atoms.positions += np.repeat(places * (length / side), repeats, axis=0)
        return atoms


def random_box(rng: np.random.Generator) -> Box:
    waters = int(rng.choice(WATERS, p=SIZES))
    per_48 = int(rng.choice(PAIRS))
    density = float(rng.uniform(*DENSITIES)) + RISE * per_48
    return Box(waters, per_48 * waters // 48, density, float(rng.choice(TEMPERATURES)))


def simulation(atoms: Atoms, temperature: float, seed: int, *, threads: int = 1) -> openmm.Context:
    """Langevin dynamics of the teacher, from a minimum of the energy near `atoms`."""
    integrator = openmm.LangevinMiddleIntegrator(temperature, 5.0, 1e-3 * STEP)
    integrator.setRandomNumberSeed(seed)
    properties = {"Threads": str(threads), "DeterministicForces": "true"}
    context = openmm.Context(teacher(atoms), integrator, openmm.Platform.getPlatformByName("CPU"), properties)
    context.setPositions(A_TO_NM * atoms.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 100.0, 200)
    context.setVelocitiesToTemperature(temperature, seed)
    return context


def walk(box: Box, count: int, rng: np.random.Generator) -> Iterator[Atoms]:
    """`count` labelled frames."""
    atoms = box.start(rng)
    context, label = simulation(atoms, box.temperature + 300.0, int(rng.integers(1, 2**31))), Labels(atoms)
    context.getIntegrator().step(HEATING)
    context.getIntegrator().setTemperature(box.temperature)
    context.getIntegrator().step(SETTLING)
    for frame in range(count):
        context.getIntegrator().step(BETWEEN)
        positions = context.getState(getPositions=True).getPositions(asNumpy=True)
        atoms.positions = positions.value_in_unit(unit.angstrom)
        width = rng.uniform(0.0, LARGEST) if frame % DISPLACED == 0 else 0.0
        atoms.positions += width * rng.normal(size=atoms.positions.shape)
        yield label(atoms)


def frames_of(name: str, seed: int, walker: int) -> list[Atoms]:
    """The frames of a walker of the set `name`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), walker])
    box = random_box(rng)
    frames = list(walk(box, FRAMES, rng))
    for atoms in frames:
        atoms.info["temperature"] = box.temperature
    return frames


def main() -> None:
    """Write the files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        for name, count in WALKERS.items():
            walkers = pool.map(frames_of, repeat(name), repeat(options.seed), range(count))
            path = Path(__file__).with_name(f"salt_water_{name}.xyz")
            write(path, [atoms for frames in walkers for atoms in frames])
            print(f"written: {path}")


if __name__ == "__main__":
    main()
