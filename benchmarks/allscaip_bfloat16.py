"""Accuracy of bfloat16 products: errors against float32, and energy drift in NVE.

    python benchmarks/allscaip_bfloat16.py MODEL STRUCTURE [--steps 2000] [--temperature 300] [--repeat 2]

MODEL: an AllScAIP checkpoint. The structure is repeated along its cell vectors and rattled. Velocity Verlet is run in
float32 and in bfloat16, from the same velocities.
"""

from __future__ import annotations

import argparse

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet

import uip

EQUILIBRATION = 0.1
"""Of the run; does not count."""


def errors(model: str, atoms: Atoms) -> None:
    """Prints errors of bfloat16 and float32 for one structure, compared with float64."""
    results = {}
    for dtype in ("float64", "float32", "bfloat16"):
        copy = atoms.copy()
        copy.calc = uip.Calculator(model, dtype=dtype)
        results[dtype] = copy.get_potential_energy(), copy.get_forces()
    energy, forces = results["float64"]
    print(f"{len(atoms)} atoms, forces of {np.sqrt((forces**2).mean()):.3f} eV/A (rms); differences from float64:")
    for dtype in ("float32", "bfloat16"):
        apart = results[dtype][1] - forces
        print(
            f"  {dtype:9} energy {1e3 * (results[dtype][0] - energy) / len(atoms):9.4f} meV/atom, forces "
            f"{1e3 * np.sqrt((apart**2).mean()):.4f} meV/A rms, {1e3 * np.abs(apart).max():.4f} largest"
        )


def drift(model: str, atoms: Atoms, dtype: str, steps: int, temperature: float) -> tuple[float, float]:
    """Slope of the total energy, meV/atom/ps, and its scatter about the line, meV/atom."""
    atoms = atoms.copy()
    atoms.calc = uip.Calculator(model, dtype=dtype)
    width = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * width[:, None])
    Stationary(atoms)
    rows: list[tuple[float, float]] = []
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    dynamics.attach(lambda: rows.append((dynamics.get_time() / units.fs / 1e3, atoms.get_total_energy())), interval=5)
    dynamics.run(steps)
    time, energy = np.array(rows[int(EQUILIBRATION * len(rows)) :]).T
    energy = 1e3 * energy / len(atoms)
    line = np.polyfit(time, energy, 1)
    return float(line[0]), float(np.std(energy - np.polyval(line, time)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("--steps", type=int, default=2000, help="of 1 fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K, at the start")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    atoms = ase.io.read(arguments.structure) * (arguments.repeat, arguments.repeat, arguments.repeat)
    atoms.calc = None
    atoms.rattle(0.05, seed=0)
    errors(arguments.model, atoms)
    for dtype in ("float32", "bfloat16"):
        slope, scatter = drift(arguments.model, atoms, dtype, arguments.steps, arguments.temperature)
        print(f"NVE in {dtype:9} drift {slope:8.4f} meV/atom/ps, scatter about it {scatter:.4f} meV/atom", flush=True)


if __name__ == "__main__":
    main()
