"""Uncertainties of one prediction of a calibrated model, by their names in ASE; `uip.models.uncertainty`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from uip.schema import Floats

UNCERTAINTIES = ("energy_uncertainty", "energy_uncertainties")
"""Results of a calibrated model in ASE: eV, of the energy and of the energy of each atom."""


def uncertainties(prediction: Mapping[str, NDArray[Any]]) -> dict[str, float | Floats]:
    """`UNCERTAINTIES` of one structure; nothing of a model without calibration, or of a committee."""
    if "energy_uncertainty" not in prediction:
        return {}
    return {
        "energy_uncertainty": float(prediction["energy_uncertainty"]),
        "energy_uncertainties": prediction["node_uncertainty"],
    }
