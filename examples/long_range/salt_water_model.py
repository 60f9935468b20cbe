"""Writes frames that a trained model has errors in, labelled by the teacher of `flexible_water.py`.

    python salt_water_model.py runs/salt_water/best.ckpt     salt_water_bent.xyz, salt_water_model.xyz; 20 minutes

A model trained on frames of its teacher has errors where the teacher never goes, and its own dynamics find them. Here
these are frames of molecular dynamics with the model, in boxes as in `salt_water.py`, of its smallest size; the first
frame is one of the teacher. And, since molecules of water became linear in them, frames of the first training set in
which some molecules are bent or opened. Training goes on with them beside the others (`salt_water_again.toml`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from demo_water import export, run_openmm
from flexible_water import Labels
from openmm import unit
from salt_water import FRAMES, HEATING, PAIRS, SETTLING, WALKERS, WATERS, random_box, simulation

from uip.data.read import read_atoms

FOLDER = Path(__file__).resolve().parent

TEMPERATURES = (290.0, 300.0, 320.0, 360.0, 420.0)
"""K."""
STEPS, BETWEEN = 1500, 100
"""Steps of the model, 2 fs, and steps between labelled frames."""
LARGEST = 50.0
"""eV/A; frames with larger components of the teacher's forces are of no use."""
BENT_FRAMES = 3
"""Molecules are bent in each third frame of the training set."""
BENT, ANGLES = 0.15, (80.0, 180.0)
"""Part of the molecules, and limits of their angles H-O-H, degrees."""


def start_of(walker: int, rng: np.random.Generator) -> tuple[Atoms, float]:
    """A box after some dynamics of the teacher, and its temperature in K."""
    box = random_box(rng)
    pairs = PAIRS[walker % len(PAIRS)]
    temperature = TEMPERATURES[walker % len(TEMPERATURES)]
    box = replace(box, density=box.density + 0.05 * (pairs - box.pairs * WATERS[0] // box.waters))
    box = replace(box, waters=WATERS[0], pairs=pairs, temperature=temperature)
    atoms = box.start(rng)
    context = simulation(atoms, temperature, int(rng.integers(1, 2**31)))
    context.getIntegrator().step(HEATING + SETTLING)
    positions = context.getState(getPositions=True).getPositions(asNumpy=True)
    atoms.positions = positions.value_in_unit(unit.angstrom)
    return atoms, temperature


def frames_of(model: Path, seed: int, walker: int) -> list[Atoms]:
    """Labelled frames of one walker."""
    start, temperature = start_of(walker, np.random.default_rng([seed, walker]))
    return labelled(run_openmm(model, start, STEPS, temperature, every=BETWEEN))


def bend(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A copy of `atoms` in which the second hydrogen of some molecules moves in their plane to a random angle."""
    result = atoms.copy()
    for oxygen in range(0, 3 * atoms.symbols.count("O"), 3):
        if rng.random() < BENT:
            angle = float(rng.uniform(*ANGLES))
            result.set_angle(oxygen + 1, oxygen, oxygen + 2, angle, indices=[oxygen + 2])
    return result


def bent_frames(seed: int, walker: int) -> list[Atoms]:
    """Labelled frames of a walker of the training set with bent molecules."""
    rng = np.random.default_rng([seed, walker, 1])
    first = walker * FRAMES
    frames = list(read_atoms(f"{FOLDER / 'salt_water_train.xyz'}@{first}:{first + FRAMES}"))[::BENT_FRAMES]
    return labelled([bend(atoms, rng) for atoms in frames])


def labelled(frames: list[Atoms]) -> list[Atoms]:
    """With labels of the teacher; without frames whose forces are too large."""
    label = Labels(frames[0])
    found = [label(atoms) for atoms in frames]
    return [atoms for atoms in found if np.abs(atoms.get_forces()).max() < LARGEST]


def main() -> None:
    """Write the files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint or name of a model")
    parser.add_argument("--walkers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.processes) as pool:
        write_frames("bent", pool.map(bent_frames, repeat(options.seed), range(WALKERS["train"])))
        model = export(options.model)
        write_frames("model", pool.map(frames_of, repeat(model), repeat(options.seed), range(options.walkers)))


def write_frames(name: str, walkers: Iterable[list[Atoms]]) -> None:
    """Write the frames of all walkers to salt_water_NAME.xyz."""
    path = FOLDER / f"salt_water_{name}.xyz"
    write(path, [atoms for frames in walkers for atoms in frames])
    print(f"written: {path}")


if __name__ == "__main__":
    main()
