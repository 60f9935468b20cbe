"""Calibrates the uncertainty of energies on labelled structures; formulas: `uip.models.uncertainty`.

Features and errors are per atom. Models are trained on energies per atom, so that their errors, not those of total
energies, are of one size for small and large structures; each structure then has the same weight in C.
A part of the structures makes C. The other part, held out, makes s and alpha: those under which its errors are most
likely, if they are normal with standard deviation sigma. For given s, alpha^2 is the mean of error^2 / (x^T (C +
s^2)^-1 x), x = F / N.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from uip.graph.batch import batch
from uip.graph.structure import Structure
from uip.inference.evaluator import MAX_COST, batches, load_evaluator
from uip.inference.reliability import Reliability, reliability
from uip.models.potential import Potential
from uip.models.uncertainty import Calibration, CalibrationRecord
from uip.schema import Floats

SMALLEST, SMALLEST_HELD_OUT = 20, 10
"""Structures that the covariance and the part held out need."""
REGULARISATIONS = 10.0 ** np.arange(-8.0, 0.5, 0.5)
"""Values of s^2 that are tried, in units of the mean eigenvalue of C. Smaller ones would enlarge the rounding errors of
float32 features."""


@dataclass(frozen=True)
class Found:
    """A calibration, with errors and uncertainties of the structures held out, (B,) eV/atom."""

    calibration: Calibration
    error: Floats
    sigma: Floats


def calibrate(
    model: Potential, structures: Sequence[Structure], energies: Floats, *, held_out: float = 0.2, seed: int = 0
) -> Found:
    """The calibration of `model`, which is not changed.

    Args:
        energies: labels, (B,) eV, finite.
        held_out: the fraction of structures for s and alpha.

    Raises:
        ValueError: `held_out` outside ]0, 1[, or too few structures.
    """
    check(len(structures), held_out)
    features, predicted = last_layer_features(model, structures)
    atoms = np.array([structure.atomic_numbers.size for structure in structures])
    features, error = features / atoms[:, None], (predicted - energies) / atoms
    order = np.random.default_rng(seed).permutation(len(structures))
    count = round(held_out * len(structures))
    return fit(features[order[count:]], features[order[:count]], error[order[:count]])


def check(count: int, held_out: float) -> None:
    """Raises ValueError for what no calibration can be made of."""
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"the fraction held out must lie between 0 and 1, got {held_out}")
    aside = round(held_out * count)
    if count - aside < SMALLEST or aside < SMALLEST_HELD_OUT:
        raise ValueError(
            f"a calibration needs {SMALLEST} structures with energies for the covariance and {SMALLEST_HELD_OUT} held "
            f"out, got {count - aside} and {aside}; give more structures, or change the fraction held out, {held_out}"
        )


def last_layer_features(model: Potential, structures: Iterable[Structure]) -> tuple[Floats, Floats]:
    """F (B, H), the sums of features over atoms, and energies (B,) eV, in float64.

    Raises:
        ValueError: an element that the model does not know.
    """
    evaluator = load_evaluator(model, dtype="float64", device=str(model.device))
    ready = evaluator.potential
    assert isinstance(ready, Potential)
    sums: list[Floats] = []
    energies: list[Floats] = []
    for graphs in batches(evaluator, structures, MAX_COST):
        graph = batch(graphs).to(device=ready.device, dtype=ready.dtype)
        tensors = graph.tensors()
        with torch.no_grad():
            output = ready(**{name: tensors[name] for name in ready.inputs})
        for values, found in ((output.features, sums), (output.node_energy.unsqueeze(1), energies)):
            total = values.new_zeros(graph.num_graphs, values.shape[1]).index_add(0, graph.graph_index, values)
            found.append(total.cpu().numpy())
    return np.concatenate(sums), np.concatenate(energies)[:, 0]


def fit(features: Floats, held_out: Floats, error: Floats) -> Found:
    """A calibration from features per atom: of the covariance (A, H), of the part held out (B, H), and errors (B,)."""
    eigenvalues, vectors = np.linalg.eigh(features.T @ features / len(features))
    eigenvalues = np.maximum(eigenvalues, 0.0)  # of rounding errors
    squares, unit = (held_out @ vectors) ** 2, eigenvalues.mean()

    def variances(s2: float) -> Floats:
        result: Floats = (squares / (eigenvalues + s2 * unit)).sum(axis=1)
        return result

    s2 = float(min(REGULARISATIONS, key=lambda s2: improbability(error, variances(s2))))
    sigma = np.sqrt(variances(s2))
    factor = float(np.sqrt(np.mean((error / sigma) ** 2)))
    quality = reliability(error, factor * sigma)
    projection = vectors * (factor / np.sqrt(eigenvalues + s2 * unit))
    record = CalibrationRecord(
        structures=len(features),
        held_out=len(error),
        factor=factor,
        regularisation=s2,
        spearman=quality.spearman,
        slope=quality.slope,
        miscalibration=quality.miscalibration,
    )
    return Found(Calibration(torch.from_numpy(projection), record), error, factor * sigma)


def improbability(error: Floats, variance: Floats) -> float:
    """Minus twice the log-likelihood per structure, but for a constant, of normal errors with the best factor."""
    return float(np.log(np.mean(error**2 / variance)) + np.mean(np.log(variance)))


def quality_of(record: CalibrationRecord) -> Reliability:
    """What a calibration says of itself."""
    return Reliability(record.held_out, record.spearman, record.slope, record.miscalibration)
