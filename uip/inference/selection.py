"""Which structures to label next: those on which a committee deviates most, and among them those that differ most.

Structures are compared by fingerprints: for each pair of elements, the mean over the atoms of the number of neighbours
at distance r, in smooth bins, times the weight (1 - (r / cutoff)^2)^2. Farthest-point sampling (Gonzalez, Theoretical
Computer Science 38, 293 (1985)) takes the structure that is farthest from all that were taken before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ase
import numpy as np

from uip.graph.ase_io import structure_from_atoms
from uip.graph.neighbors import find_pairs
from uip.graph.structure import complete_cell
from uip.inference.committee import Committee, deviations
from uip.inference.evaluator import Evaluator
from uip.inference.stream import Failure, Frame, predict_stream
from uip.schema import Floats

CUTOFF, BINS = 6.0, 24
"""A; number of bins up to it."""
POOL = 5
"""Candidates for each structure that is wanted: those with the largest deviations."""

Fingerprint = dict[tuple[int, int], Floats]
"""For each ordered pair of atomic numbers, (BINS,)."""


@dataclass(frozen=True)
class Selected:
    """A structure that was chosen."""

    frame: Frame
    deviation: float
    """Largest deviation of a force, eV/A; NaN without a committee."""
    distance: float
    """Of its fingerprint from the closest one chosen before; infinite for the first."""


@dataclass(frozen=True)
class Selection:
    """What `select` chose, in the order of choice, and what it could not use."""

    chosen: list[Selected]
    failures: list[str]
    num_candidates: int
    """Structures within the range of deviations."""


def select(
    evaluator: Evaluator | Committee,
    frames: Iterable[Frame],
    count: int,
    *,
    smallest: float = 0.0,
    largest: float = np.inf,
) -> Selection:
    """Choose `count` of `frames`, or all candidates if there are fewer.

    Args:
        evaluator: a committee; with one model alone structures are chosen by their fingerprints, whatever the model.
        smallest, largest: eV/A; candidates have a largest deviation of a force in this range. Structures above it are
            often unphysical, those below it known.

    Raises:
        ValueError: `count` below 1, an empty range, or a range without a committee.
    """
    _check(evaluator, count, smallest, largest)
    candidates: list[tuple[Frame, float]] = []
    failures = []
    for frame, result in predict_stream(evaluator, frames):
        if isinstance(result, Failure):
            failures.append(f"{frame.file}, structure {frame.number}: {result.message}")
            continue
        deviation = float(np.asarray(deviations(result).get("max_force_deviation", np.nan)))
        if not deviation < smallest and not deviation > largest:
            candidates.append((frame, deviation))
    candidates.sort(key=lambda candidate: -candidate[1])  # stable: of equal ones the first read
    is_committee = len(evaluator.members) > 1
    pool = candidates[: POOL * count] if is_committee else candidates
    features = matrix([fingerprint(frame.atoms) for frame, _ in pool])
    chosen = [Selected(*pool[k], distance) for k, distance in farthest_points(features, count)]
    return Selection(chosen, failures, len(candidates))


def _check(evaluator: Evaluator | Committee, count: int, smallest: float, largest: float) -> None:
    if count < 1:
        raise ValueError(f"the number of structures must be at least 1, got {count}")
    if not smallest < largest:
        raise ValueError(f"the smallest deviation must be below the largest, got {smallest} and {largest}")
    if len(evaluator.members) == 1 and (smallest > 0.0 or largest < np.inf):
        raise ValueError("a range of deviations needs a committee, got one model; name more with -m, or leave it out")


def fingerprint(atoms: ase.Atoms) -> Fingerprint:
    """See above; the same for a supercell, for turned and for renumbered structures."""
    structure = structure_from_atoms(atoms)
    pairs = find_pairs(structure, CUTOFF)
    vectors = pairs.vectors(structure.positions, complete_cell(structure.cell, structure.pbc))
    r = np.linalg.norm(vectors, axis=1)
    centres = (np.arange(BINS) + 0.5) * CUTOFF / BINS
    values = np.exp(-0.5 * ((r[:, None] - centres) * BINS / CUTOFF) ** 2)
    values *= (1.0 - (r[:, None] / CUTOFF) ** 2) ** 2
    numbers = structure.atomic_numbers
    kinds = np.stack([numbers[pairs.centre], numbers[pairs.neighbor]], axis=1)
    return {
        (int(a), int(b)): values[(kinds == (a, b)).all(1)].sum(0) / len(numbers) for a, b in np.unique(kinds, axis=0)
    }


def matrix(fingerprints: Sequence[Mapping[tuple[int, int], Floats]]) -> Floats:
    """Fingerprints as rows; pairs of elements that a structure lacks are zero."""
    kinds = sorted({kind for each in fingerprints for kind in each})
    zero = np.zeros(BINS)
    return np.array([np.concatenate([each.get(kind, zero) for kind in kinds] or [zero]) for each in fingerprints])


def farthest_points(features: Floats, count: int) -> list[tuple[int, float]]:
    """Rows of `features`, from the first on, with their distances from those before."""
    chosen: list[tuple[int, float]] = []
    distance = np.full(len(features), np.inf)
    for _ in range(min(count, len(features))):
        k = int(distance.argmax())
        chosen.append((k, float(distance[k])))
        distance = np.minimum(distance, np.linalg.norm(features - features[k], axis=1))
        distance[[place for place, _ in chosen]] = -1.0
    return chosen
