"""Observables of salt water from frames of molecular dynamics: radial distribution functions and their first peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

PAIRS = (("O", "O"), ("Na", "O"), ("Cl", "O"))
WIDTH = 0.05
"""A; of the bins."""
NEAR = 0.13
"""A; half of the range to which a parabola is fitted."""
FIRST = {("O", "O"): (2.4, 3.3), ("Na", "O"): (2.0, 3.0), ("Cl", "O"): (2.7, 3.8)}
"""A; where the first peak is sought."""


@dataclass(frozen=True)
class Radial:
    """A radial distribution function g(r)."""

    distance: NDArray[np.float64]
    """Centres of the bins, A."""
    value: NDArray[np.float64]

    def peak(self, limits: tuple[float, float]) -> tuple[float, float]:
        """Position (A) and height of the first maximum, which lies within `limits`.

        It is that of a parabola through the bins within `NEAR` of the highest one; noise of single bins averages out.
        """
        inside = np.flatnonzero((self.distance > limits[0]) & (self.distance < limits[1]))
        highest = self.distance[inside[np.argmax(self.value[inside])]]
        near = np.abs(self.distance - highest) < NEAR
        a, b, c = np.polyfit(self.distance[near] - highest, self.value[near], 2)
        return float(highest - b / (2 * a)), float(c - b * b / (4 * a))


def radial(frames: Sequence[Atoms], pair: tuple[str, str]) -> Radial:
    """g(r) up to half of the box of the first frame, averaged over orthorhombic `frames`; atoms as in the first."""
    longest = min(frames[0].cell.lengths()) / 2
    edges = np.arange(0.0, longest, WIDTH)
    first, second = (np.flatnonzero(frames[0].symbols == symbol) for symbol in pair)
    found = np.zeros(len(edges) - 1)
    ideal = np.zeros(len(edges) - 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    num_pairs = len(first) * (len(second) - (pair[0] == pair[1]))
    for atoms in frames:
        lengths = atoms.cell.lengths()
        vectors = atoms.positions[first, None] - atoms.positions[None, second]
        vectors -= lengths * np.round(vectors / lengths)
        distances = np.linalg.norm(vectors, axis=2)
        found += np.histogram(distances[distances > 0.1], edges)[0]
        ideal += num_pairs * shells / atoms.get_volume()
    return Radial((edges[1:] + edges[:-1]) / 2, found / ideal)


def density(atoms: Atoms) -> float:
    """g/cm^3, with the masses of the elements."""
    return float(sum(Atoms(atoms.symbols).get_masses()) / atoms.get_volume() * 1e24 / units._Nav)
