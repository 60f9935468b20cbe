"""Writes periodic boxes of +1 and -1 ions at random places, with energies and forces of `labels.py`.

    python random_charges.py              random_charges_train.xyz (500 boxes of 32 ions), _valid, _test, and
                                          _16 and _64: boxes of 16 and 64 ions at the same density

Every set has random numbers of its own, from the seed and its name.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from labels import labelled

SETS = {"train": (500, 32), "valid": (50, 32), "test": (100, 32), "16": (100, 16), "64": (50, 64)}
"""Number of boxes, and of ions in a box."""
LENGTH = 12.0
"""A; edge of the cube for 32 ions."""
SHORTEST = 2.2
"""A; smallest distance between ions."""


def box(num_ions: int, rng: np.random.Generator) -> Atoms:
    """Half of the ions are Na+, half Cl-; a new ion too close to the others is placed again."""
    length = LENGTH * (num_ions / 32) ** (1 / 3)
    positions = np.empty((0, 3))
    while len(positions) < num_ions:
        place = rng.uniform(0.0, length, 3)
        vectors = positions - place
        vectors -= length * np.round(vectors / length)
        if (np.linalg.norm(vectors, axis=1) > SHORTEST).all():
            positions = np.vstack([positions, place])
    return Atoms(["Na", "Cl"] * (num_ions // 2), positions, cell=length * np.eye(3), pbc=True)


def boxes(name: str, seed: int, count: int, num_ions: int) -> list[Atoms]:
    """Labelled boxes of the set `name`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [labelled(box(num_ions, rng), np.array([1.0, -1.0] * (num_ions // 2))) for _ in range(count)]


def main() -> None:
    """Write the files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, (count, num_ions) in SETS.items():
        path = Path(__file__).with_name(f"random_charges_{name}.xyz")
        write(path, boxes(name, options.seed, count, num_ions))
        print(f"written: {path}")


if __name__ == "__main__":
    main()
