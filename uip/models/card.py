"""Provenance of a potential, and what its weights were trained for; stored in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """Name and provenance of a set of weights."""

    name: str = "unnamed"
    theory: str = ""
    """Level of theory of the training data, and the data set."""
    licence: str = ""
    reference: str = ""
    """Paper or other source to cite."""


@dataclass(frozen=True)
class Coverage:
    """What the weights of a potential were trained for. Elements and moments beyond it have random weights."""

    elements: tuple[int, ...]
    """Atomic numbers in the training data."""
    magmoms: bool = True
    """Whether the training data had magnetic moments, with a weight in the loss."""
