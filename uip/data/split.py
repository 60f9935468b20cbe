"""Splits a data set into training and validation: at random, or by whole groups of related structures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from uip.data.dataset import Dataset
from uip.schema import Integers


def random_split(num_samples: int, fraction: float, seed: int) -> tuple[Integers, Integers]:
    """Numbers of the training and of the validation samples; `fraction` of all for validation, at least one of each.

    Raises:
        ValueError: a fraction outside ]0, 1[, or fewer than two samples.
    """
    check_fraction(fraction)
    if num_samples < 2:
        raise ValueError(f"a split needs at least two structures, got {num_samples}; give a validation file instead")
    order = np.random.default_rng(seed).permutation(num_samples)
    count = min(max(round(fraction * num_samples), 1), num_samples - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def group_split(groups: Sequence[str], fraction: float, seed: int) -> tuple[Integers, Integers]:
    """As `random_split`, but samples of a group stay together.

    Groups are added to the validation part in random order if that brings its size nearer to `fraction`.

    Raises:
        ValueError: a fraction outside ]0, 1[, or fewer than two groups.
    """
    check_fraction(fraction)
    names, inverse, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"a split by group needs at least two groups, got {len(names)} ({', '.join(names)}); "
            "split by another key, or give a validation file"
        )
    aside: list[int] = []
    total, goal = 0, fraction * len(groups)
    for k in np.random.default_rng(seed).permutation(len(names))[:-1]:
        if not aside or abs(total + sizes[k] - goal) < abs(total - goal):
            aside.append(int(k))
            total += int(sizes[k])
    chosen = np.isin(inverse, aside)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def check_fraction(fraction: float) -> None:
    """Raises ValueError unless 0 < fraction < 1."""
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"`validation_fraction` must lie between 0 and 1, got {fraction}")


def groups_of(data: Dataset, key: str) -> list[str]:
    """The group of each sample: its reduced formula ("formula"), or the value of `key` in `atoms.info`.

    Raises:
        ValueError: a structure without `key`.
    """
    if key == "formula":
        return [reduced_formula(data.read("atomic_numbers", k).numpy()) for k in range(len(data))]
    values = data.info_values(key)
    if None in values:
        number = values.index(None)
        raise ValueError(
            f"'data.split_by' must be 'formula' or an info key of every structure, but '{key}' is missing from "
            f"structure {number}, which has: {', '.join(sorted(data.info(number))) or 'nothing'}"
        )
    return [str(value) for value in values]


def reduced_formula(atomic_numbers: Integers) -> str:
    """The reduced formula, e.g. "Li2O"."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    content = {chemical_symbols[z]: int(count) for z, count in zip(numbers, counts, strict=True)}
    return Formula.from_dict(content).reduce()[0].format("hill")
