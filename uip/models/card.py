"""Provenance of a potential; stored in checkpoints and exported files."""

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
