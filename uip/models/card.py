"""What a potential says of its origin; it travels with checkpoints and exported files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """Name and provenance of a set of weights."""

    name: str = "unnamed"
    theory: str = ""
    """Level of theory and data that the weights were trained on."""
    licence: str = ""
    reference: str = ""
    """Paper or other source to cite."""
