"""How well predicted uncertainties describe real errors: numbers and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt
from pathlib import Path

import numpy as np

from uip.schema import Floats

BINS, PER_BIN = 10, 5
"""Largest number of bins, and structures that a bin has at least."""


@dataclass(frozen=True)
class Reliability:
    """Of uncertainties sigma (B,) against errors (B,), both eV/atom."""

    structures: int
    spearman: float
    """Rank correlation of sigma and |error|: 1 if larger sigma always means larger error, 0 if it says nothing. Even
    with perfect sigma it stays below 1, since an error is one draw of a distribution."""
    slope: float
    """Of root mean square errors against root mean square sigma, in bins of equally many structures sorted by sigma, by
    a straight line: 1 if right, below 1 if large sigma are too large; NaN with less than two bins."""
    miscalibration: float
    """Mean difference between expected and found fractions of errors below c sigma, over expected fractions from 0 to
    1, for normal errors: 0 is best, 0.5 worst."""


def reliability(error: Floats, sigma: Floats) -> Reliability:
    """`Reliability` of these structures."""
    size = np.abs(error)
    spearman = float(np.corrcoef(_ranks(size), _ranks(sigma))[0, 1]) if _varies(size) and _varies(sigma) else np.nan
    predicted, found = binned(error, sigma)
    slope = float(np.polyfit(predicted, found, 1)[0]) if len(predicted) > 1 and _varies(predicted) else np.nan
    below = np.sort([erf(ratio / sqrt(2.0)) for ratio in size / sigma])
    fractions = (np.arange(len(below)) + 0.5) / len(below)
    return Reliability(len(size), spearman, slope, float(np.abs(below - fractions).mean()))


def binned(error: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """Root mean squares of sigma and of the error in bins of equally many structures, sorted by sigma."""
    order = np.argsort(sigma, kind="stable")
    parts = np.array_split(order, max(min(BINS, len(order) // PER_BIN), 1))
    return tuple(np.array([np.sqrt(np.mean(values[part] ** 2)) for part in parts]) for values in (sigma, error))  # type: ignore[return-value]


def _varies(values: Floats) -> bool:
    return bool(np.ptp(values) > 0)


def _ranks(values: Floats) -> Floats:
    """Ranks; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - 0.5 * (counts + 1))[inverse]
    return ranks


def reliability_plot(error: Floats, sigma: Floats, path: Path, title: str) -> None:
    """|error| against sigma, and the points of `binned`, in meV/atom on logarithmic axes, to `path`."""
    from matplotlib.figure import Figure

    size, sigma = 1e3 * np.abs(error), 1e3 * sigma
    predicted, found = binned(size, sigma)
    figure = Figure(figsize=(5.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(sigma, size, ".", color="0.6", markersize=4, label="structures")
    axes.loglog(predicted, found, "o-", color="tab:blue", label="root mean square in bins")
    ends = np.array([sigma.min(), sigma.max()])
    axes.loglog(ends, ends, "k--", linewidth=0.8, label="predicted = real")
    axes.set(xlabel="predicted uncertainty / meV/atom", ylabel="|error| / meV/atom", title=title)
    axes.legend()
    figure.savefig(path, dpi=150)
