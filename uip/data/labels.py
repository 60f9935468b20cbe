"""Labels of a structure: read from ASE atoms, and checked before training."""

from __future__ import annotations

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from uip.graph.structure import Structure

Labels = dict[str, NDArray[np.float64]]
LABELS = ("energy", "forces", "stress", "magmoms")
"""energy () eV, forces (N, 3) eV/A, stress (3, 3) eV/A^3 positive under tension, magmoms (N,) mu_B, magnitudes."""


def labels_from_atoms(atoms: ase.Atoms) -> Labels:
    """The labels of a structure, see `LABELS`; missing labels are left out."""
    labels = {name: _label(atoms, name) for name in LABELS}
    if labels["magmoms"] is not None:
        labels["magmoms"] = abs(labels["magmoms"])  # the sign depends on the spin axis of the calculation
    return {name: value for name, value in labels.items() if value is not None}


def _label(atoms: ase.Atoms, name: str) -> NDArray[np.float64] | None:
    if atoms.calc is None:
        return None
    try:
        if name == "stress":
            return np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
        # the energy as stored, not extrapolated to zero smearing
        value = atoms.calc.get_property(name, atoms, allow_calculation=False)
    except (PropertyNotImplementedError, NotImplementedError):
        return None
    return None if value is None else np.asarray(value, dtype=np.float64)


def check_labels(structure: Structure, labels: Labels) -> None:
    """Raises ValueError if a label is unusable."""
    num_atoms = structure.atomic_numbers.size
    shapes = {"energy": (), "forces": (num_atoms, 3), "stress": (3, 3), "magmoms": (num_atoms,)}
    for name, value in labels.items():
        if value.shape != shapes[name]:
            raise ValueError(f"{name} of {num_atoms} atoms must have shape {shapes[name]}, got {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite, got {_first_bad(value)}; remove the structure or this label")
    if "stress" in labels and abs(np.linalg.det(structure.cell)) < 1e-9:
        raise ValueError("a stress label needs three cell vectors, got a cell without volume; remove the label")


def _first_bad(value: NDArray[np.float64]) -> str:
    index = tuple(int(k) for k in np.argwhere(~np.isfinite(value))[0])
    return f"{value[index]} at {index}" if index else f"{value}"
