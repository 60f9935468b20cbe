"""`Structure`: atomic numbers, positions, cell and periodicity, checked on input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uip.config import whole_number
from uip.schema import MAX_CHARGE, MAX_SPIN, Floats, Integers

MIN_DISTANCE = 0.1
"""A; closer atoms are an error in the input."""

FARTHEST, LARGEST = 1e5, 1e9
"""A; extent along directions that are not periodic, and coordinates."""


@dataclass(frozen=True)
class Structure:
    """One structure as checked arrays: positions (N, 3) A, cell (3, 3) A, pbc (3,), atomic_numbers (N,)."""

    atomic_numbers: Integers
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    charge: int = 0
    spin: int = 1


def check_structure(
    atomic_numbers: ArrayLike,
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    *,
    charge: float = 0,
    spin: float = 1,
) -> Structure:
    """A `Structure` from the user's arrays.

    Raises:
        ValueError: no atoms, wrong shapes, NaN, infinite or far too large numbers, a singular cell along a periodic
            direction, or a charge or multiplicity that is not a whole number or is out of range.
    """
    # copies: callers may change their arrays in place, but a neighbour list keeps the old positions
    numbers = np.array(atomic_numbers, dtype=np.int64)
    points = np.array(positions, dtype=np.float64, order="C")
    box = np.zeros((3, 3)) if cell is None else np.array(cell, dtype=np.float64, order="C")
    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()
    if numbers.size == 0:
        raise ValueError("a structure must have at least one atom, got none; check the input file or selection")
    if numbers.ndim != 1 or points.shape != (numbers.size, 3):
        raise ValueError(
            f"`positions` must have shape ({numbers.size}, 3) for {numbers.size} atomic numbers, got {points.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise ValueError(
            f"positions must be finite, but those of {bad.size} of {numbers.size} atoms are not, first atom {bad[0]}: "
            f"{points[bad[0]]}; look at the input, or at the step before: the simulation may have exploded"
        )
    _check_distances(points, periodic)
    if box.shape != (3, 3) or not np.isfinite(box).all():
        raise ValueError(f"`cell` must be a finite (3, 3) matrix with rows a, b, c in A, got {box.tolist()}")
    _check_cell(box, periodic)
    return Structure(numbers, points, box, periodic, *check_charge_and_spin(charge, spin))


def check_charge_and_spin(charge: float, spin: float) -> tuple[int, int]:
    """Both as integers; ValueError if one is not a whole number or is out of range."""
    charge, spin = (
        whole_number(name, value, ", of the whole structure,") for name, value in (("charge", charge), ("spin", spin))
    )
    if abs(charge) > MAX_CHARGE or not 0 <= spin <= MAX_SPIN:
        raise ValueError(
            f"the total charge must lie within +-{MAX_CHARGE} e and the multiplicity within 0 .. {MAX_SPIN}, "
            f"got charge {charge} and spin {spin}; spin is 2 S + 1, and both belong to the whole structure"
        )
    return charge, spin


def _check_distances(positions: Floats, pbc: NDArray[np.bool_]) -> None:
    """Positions that were lost: cell lists of neighbour searches overflow, and wrapping has no digits left."""
    extent, largest = float(np.ptp(positions, axis=0)[~pbc].max(initial=0.0)), float(np.abs(positions).max())
    if extent > FARTHEST or largest > LARGEST:
        raise ValueError(
            f"atoms must lie within {FARTHEST:g} A of each other along directions that are not periodic, and within "
            f"{LARGEST:g} A of the origin, got {extent:g} and {largest:g}; look at the input, or at the step before: "
            "the simulation may have exploded"
        )


def _check_cell(cell: Floats, pbc: NDArray[np.bool_]) -> None:
    vectors = cell[pbc]
    lengths = np.linalg.norm(vectors, axis=1)
    singular = bool(pbc.any()) and (
        bool((lengths < 1e-6).any()) or np.linalg.matrix_rank(vectors / lengths[:, None], tol=1e-6) < len(vectors)
    )
    if singular:
        raise ValueError(
            f"the cell must have {len(vectors)} independent vectors for pbc {pbc.tolist()}, got {cell.tolist()}; "
            "set the cell, or switch pbc off along directions that have none"
        )


def complete_cell(cell: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """A non-singular copy of the cell: vectors missing along open directions become unit vectors normal to the rest."""
    box = cell.copy()
    for axis in range(3):
        if not pbc[axis] and np.linalg.norm(box[axis]) < 1e-6:
            box[axis] = 0.0
    missing = [axis for axis in range(3) if not box[axis].any()]
    if missing:
        _, _, right = np.linalg.svd(box)
        for axis, normal in zip(missing, right[3 - len(missing) :], strict=True):
            box[axis] = normal
    return box
