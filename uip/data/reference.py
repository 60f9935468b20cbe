"""Energies of elements: what composition alone explains of the labels, so that a model learns the rest.

Fitted by least squares, E_k = sum_elements n_k(element) reference(element). Where compositions do not
decide (an element that never occurs, elements that always occur in one ratio) the smallest change is taken.
"""

from __future__ import annotations

import numpy as np

from uip.data.dataset import Dataset
from uip.schema import Floats


def compositions(dataset: Dataset, num_elements: int) -> Floats:
    """How many atoms of each element 1 .. num_elements each sample has, (B, num_elements)."""
    counts = [
        np.bincount(dataset.read("atomic_numbers", k).numpy() - 1, minlength=num_elements) for k in range(len(dataset))
    ]
    return np.array(counts, dtype=np.float64).reshape(len(dataset), num_elements)


def energies(dataset: Dataset) -> Floats:
    """Energy labels, (B,) eV; NaN where there is none."""
    return np.array([dataset.read("energy", k).item() for k in range(len(dataset))])


def fit_reference(counts: Floats, energy: Floats) -> Floats:
    """Energies of elements, (num_elements,) eV, that fit `energy`, (B,) eV, best per atom; zero without labels."""
    known = np.isfinite(energy) & (counts.sum(axis=1) > 0)
    if not known.any():
        return np.zeros(counts.shape[1])
    atoms = counts[known].sum(axis=1)
    # singular values of combinations that hardly occur are cut off: they would become huge and cancel
    return np.linalg.lstsq(counts[known] / atoms[:, None], energy[known] / atoms, rcond=1e-6)[0]
