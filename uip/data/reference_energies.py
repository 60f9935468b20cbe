"""Reference energies of elements (E0s, atomic energies): the part of the energy that depends only on composition.

Least-squares fit of E_k = sum_elements n_k(element) reference(element). Where the solution is not unique (an
element that does not occur, elements in a constant ratio) it is the one of smallest norm. Of a large data set a sample
is fitted: the tables of all structures would not fit into memory, and few structures determine 100 numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from uip.data.dataset import Dataset
from uip.schema import Floats, Integers

PER_ELEMENT = 20
"""Structures with each element that a sample has at least, if there are as many."""


def fitted_sample(dataset: Dataset, limit: int, elements: Iterable[int]) -> Integers:
    """Numbers of about `limit` samples, at random, and more for rare `elements`; all if there are not more."""
    if len(dataset) <= limit:
        return np.arange(len(dataset))
    order = np.random.default_rng(0).permutation(len(dataset))
    chosen = [order[:limit]]
    for element in elements:
        chosen.append(order[dataset.contains(element)[order]][:PER_ELEMENT])
    return np.unique(np.concatenate(chosen))


def compositions(dataset: Dataset, num_elements: int) -> Floats:
    """Number of atoms of each element 1 .. num_elements in each sample, (B, num_elements)."""
    counts = [
        np.bincount(dataset.read("atomic_numbers", k).numpy() - 1, minlength=num_elements) for k in range(len(dataset))
    ]
    return np.array(counts, dtype=np.float64).reshape(len(dataset), num_elements)


def energies(dataset: Dataset) -> Floats:
    """Energy labels, (B,) eV; NaN: no label."""
    return np.array([dataset.read("energy", k).item() for k in range(len(dataset))])


def fit_reference(counts: Floats, energy: Floats) -> Floats:
    """Reference energies, (num_elements,) eV, fitted to `energy` per atom, (B,) eV; zero without labels."""
    known = np.isfinite(energy) & (counts.sum(axis=1) > 0)
    if not known.any():
        return np.zeros(counts.shape[1])
    atoms = counts[known].sum(axis=1)
    # small singular values (nearly constant ratios of elements) are cut off: they give large values that cancel
    return np.linalg.lstsq(counts[known] / atoms[:, None], energy[known] / atoms, rcond=1e-6)[0]
