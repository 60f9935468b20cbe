"""Writes silicon.xyz: 48 distorted silicon cells labelled by the Stillinger-Weber potential, in place of DFT.

python examples/train_small/prepare.py && python -m uip.train examples/train_small/run.toml
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

EPSILON, SIGMA, RANGE = 2.1683, 2.0951, 1.8
A, B, P, LAMBDA, GAMMA = 7.049556277, 0.6022245584, 4, 21.0, 1.2


def stillinger_weber(positions: np.ndarray, cell: np.ndarray) -> float:
    """Energy in eV of silicon (Stillinger and Weber, Phys. Rev. B 31, 5262, 1985)."""
    images = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ cell
    vectors = positions[None, :, None] + images[None, None] - positions[:, None, None]
    distance = np.linalg.norm(vectors, axis=-1) / SIGMA
    energy = 0.0
    for i in range(len(positions)):
        near = (distance[i] > 0) & (distance[i] < RANGE)
        r, unit = distance[i][near], vectors[i][near] / (distance[i][near] * SIGMA)[:, None]
        energy += 0.5 * np.sum(A * (B * r**-P - 1) * np.exp(1 / (r - RANGE)))
        decay = np.exp(GAMMA / (r - RANGE))
        angles = (unit @ unit.T + 1 / 3) ** 2 * np.outer(decay, decay)
        energy += LAMBDA * np.triu(angles, 1).sum()
    return EPSILON * float(energy)


def gradient(energy, shape: tuple[int, ...], step: float = 1e-4) -> np.ndarray:
    """Central differences of a function of a displacement."""
    result = np.zeros(shape)
    for index in np.ndindex(shape):
        shift = np.zeros(shape)
        shift[index] = step
        result[index] = (energy(shift) - energy(-shift)) / (2 * step)
    return result


def main() -> None:
    """Write the file beside this script."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(48):
        atoms = bulk("Si", cubic=True)
        strain = np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3))
        atoms.set_cell(atoms.cell.array @ (strain + strain.T) / 2, scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.12, (len(atoms), 3))
        x, h, volume = atoms.positions, atoms.cell.array, atoms.get_volume()
        stress = gradient(lambda e, x=x, h=h: stillinger_weber(x + x @ e, h + h @ e), (3, 3)) / volume
        labels = {
            "energy": stillinger_weber(x, h),
            "forces": -gradient(lambda u, x=x, h=h: stillinger_weber(x + u, h), x.shape),
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = Path(__file__).with_name("silicon.xyz")
    write(path, frames)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
