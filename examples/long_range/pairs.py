"""Writes ions and polar molecules pulled apart in open space, with energies and forces of `labels.py`.

    python pairs.py                       pairs_train.xyz and _valid (3 to 10 A), pairs_test.xyz (3 to 25 A)

Six kinds, in equal numbers and random orientations: NaCl, NaNa, ClCl; an ion and HF; two HF. Distances between centres
are uniform. Molecules are rigid, so all forces are those between the two; charge is in `atoms.info`, as is `distance`.
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

SETS = {"train": (900, 10.0), "valid": (60, 10.0), "test": (600, 25.0)}
"""Number of pairs, and the largest distance in A."""
NEAREST = 3.0
"""A; smallest distance."""
KINDS = (("Na", "Cl"), ("Na", "Na"), ("Cl", "Cl"), ("Na", "HF"), ("Cl", "HF"), ("HF", "HF"))
CHARGES = {"Na": (1.0,), "Cl": (-1.0,), "HF": (0.4, -0.4)}
"""e; of the atoms. The dipole of HF is 0.38 e A (1.8 D)."""
BOND = 0.95
"""A; of HF."""


def direction(rng: np.random.Generator) -> np.ndarray:
    """A random unit vector."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def particle(name: str, centre: np.ndarray, rng: np.random.Generator) -> Atoms:
    """An ion, or a molecule in a random orientation."""
    if len(CHARGES[name]) == 1:
        return Atoms(name, [centre])
    half = 0.5 * BOND * direction(rng)
    return Atoms(name, [centre - half, centre + half])


def pair(names: tuple[str, str], distance: float, rng: np.random.Generator) -> Atoms:
    """A labelled pair, centres `distance` (A) apart."""
    centres = np.zeros(3), distance * direction(rng)
    first, second = (particle(name, centre, rng) for name, centre in zip(names, centres, strict=True))
    atoms, charges = first + second, np.array([charge for name in names for charge in CHARGES[name]])
    atoms.info.update(kind="-".join(names), distance=distance)
    members = list(range(len(first))), list(range(len(first), len(atoms)))
    return labelled(atoms, charges, members)


def pairs(name: str, seed: int, count: int, farthest: float) -> list[Atoms]:
    """Labelled pairs of the set `name`, of all kinds in turn."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [pair(KINDS[k % len(KINDS)], rng.uniform(NEAREST, farthest), rng) for k in range(count)]


def main() -> None:
    """Write the files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, (count, farthest) in SETS.items():
        path = Path(__file__).with_name(f"pairs_{name}.xyz")
        write(path, pairs(name, options.seed, count, farthest))
        print(f"written: {path}")


if __name__ == "__main__":
    main()
