"""Which structures to label next: those of which models are least certain, and among them those that differ most.

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
from uip.inference.evaluator import Evaluator, Prediction
from uip.inference.stream import Failure, Frame, predict_stream
from uip.schema import Floats

COMMITTEE_SCORE, MODEL_SCORE = "max_force_deviation", "energy_uncertainty_per_atom"
CUTOFF, BINS = 6.0, 24
"""A; number of bins up to it."""
SAME = 1e-9
"""Distance of fingerprints below which structures are the same."""
POOL = 5
"""Candidates for each structure that is wanted: those with the largest scores."""

Fingerprint = dict[tuple[int, int], Floats]
"""For each ordered pair of atomic numbers, (BINS,)."""


@dataclass(frozen=True)
class Selected:
    """A structure that was chosen."""

    frame: Frame
    score: float
    """Largest deviation of a force in a committee, eV/A, or uncertainty of the energy of a calibrated model, eV/atom;
    NaN of another model."""
    score_name: str
    """ "max_force_deviation" or "energy_uncertainty_per_atom"."""
    distance: float
    """Of its fingerprint from the closest one chosen before; infinite for the first."""


@dataclass(frozen=True)
class Selection:
    """What `select` chose, in the order of choice, and what it could not use."""

    chosen: list[Selected]
    failures: list[str]
    num_candidates: int
    """Structures within the range of scores."""


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
        evaluator: a committee or a calibrated model; with another model structures are chosen by their fingerprints,
            whatever the model.
        smallest, largest: candidates have a score (`Selected.score`) in this range. Structures above it are often
            unphysical, those below it known.

    Raises:
        ValueError: `count` below 1, an empty range, or a range without scores.
    """
    name = _score_name(evaluator)
    _check(name, count, smallest, largest)
    candidates: list[tuple[Frame, float]] = []
    failures = []
    for frame, result in predict_stream(evaluator, frames):
        if isinstance(result, Failure):
            failures.append(f"{frame.file}, structure {frame.number}: {result.message}")
            continue
        score = _score(name, result)
        if not score < smallest and not score > largest:
            candidates.append((frame, score))
    candidates.sort(key=lambda candidate: -candidate[1])  # stable: of equal ones the first read
    pool = candidates[: POOL * count] if name else candidates
    features = matrix([fingerprint(frame.atoms) for frame, _ in pool])
    shown = name or COMMITTEE_SCORE
    chosen = [Selected(*pool[k], shown, distance) for k, distance in farthest_points(features, count)]
    return Selection(chosen, failures, len(candidates))


def _score_name(evaluator: Evaluator | Committee) -> str | None:
    """What structures are ranked by; None: by nothing."""
    if len(evaluator.members) > 1:
        return COMMITTEE_SCORE
    return MODEL_SCORE if "energy_uncertainty" in evaluator.properties else None


def _score(name: str | None, result: Prediction) -> float:
    if name == MODEL_SCORE:
        return float(result["energy_uncertainty"]) / len(result["node_energy"])
    return float(np.asarray(deviations(result).get("max_force_deviation", np.nan)))


def _check(score: str | None, count: int, smallest: float, largest: float) -> None:
    if count < 1:
        raise ValueError(f"the number of structures must be at least 1, got {count}")
    if not smallest < largest:
        raise ValueError(f"the smallest score must be below the largest, got {smallest} and {largest}")
    if score is None and (smallest > 0.0 or largest < np.inf):
        raise ValueError(
            "a range of scores needs a committee or a calibrated model, got one model without uncertainties; name more "
            "with -m, run 'uip calibrate', or leave it out"
        )


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
    """Rows of `features`, from the first on, with their distances from those before; none twice."""
    chosen: list[tuple[int, float]] = []
    distance = np.full(len(features), np.inf)
    for _ in range(min(count, len(features))):
        k = int(distance.argmax())
        if distance[k] <= SAME:
            break
        chosen.append((k, float(distance[k])))
        distance = np.minimum(distance, np.linalg.norm(features - features[k], axis=1))
        distance[[place for place, _ in chosen]] = -1.0
    return chosen
