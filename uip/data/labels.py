"""Labels of a structure: read from ASE atoms, and checked before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from uip.graph.structure import Structure

Labels = dict[str, NDArray[np.float64]]
LABELS = ("energy", "forces", "stress", "magmoms")
"""energy () eV, forces (N, 3) eV/A, stress (3, 3) eV/A^3 positive under tension, magmoms (N,) mu_B, magnitudes."""


@dataclass(frozen=True)
class LabelKeys:
    """Names of the entries of a file (info or array of ASE) that are labels; empty: ASE's own name."""

    energy: str = ""
    forces: str = ""
    stress: str = ""
    """A name with "virial" in it: -stress times volume, eV."""


ASE_NAMES = LabelKeys()
ENERGIES = ("free_energy", "energy")
"""ASE's names, best first: forces are derivatives of the free energy, `energy` may be extrapolated to zero smearing."""


def labels_from_atoms(atoms: ase.Atoms, keys: LabelKeys = ASE_NAMES) -> Labels:
    """The labels of a structure, see `LABELS`; missing labels are left out.

    Raises:
        ValueError: an entry that `keys` names does not consist of numbers.
    """
    labels = {name: _label(atoms, name) for name in LABELS}
    for name, key in vars(keys).items():
        if key:
            labels[name] = _entry(atoms, name, key)
    if labels["magmoms"] is not None:
        labels["magmoms"] = abs(labels["magmoms"])  # the sign depends on the spin axis of the calculation
    return {name: value for name, value in labels.items() if value is not None}


def _label(atoms: ase.Atoms, name: str) -> NDArray[np.float64] | None:
    if atoms.calc is None:
        return None
    for key in ENERGIES if name == "energy" else (name,):
        try:
            if name == "stress":
                return np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
            value = atoms.calc.get_property(key, atoms, allow_calculation=False)
        except (PropertyNotImplementedError, NotImplementedError):
            continue
        if value is not None:
            return np.asarray(value, dtype=np.float64)
    return None


def _entry(atoms: ase.Atoms, name: str, key: str) -> NDArray[np.float64] | None:
    """The entry `key` of a file as the label `name`; None: the structure does not have it."""
    places: list[dict[str, Any]] = [atoms.info, atoms.arrays, getattr(atoms.calc, "results", {})]
    found = next((place[key] for place in places if place.get(key) is not None), None)
    if found is None:
        return None
    try:
        value = np.asarray(found, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"'{key}', named as the label {name}, must be numbers, got {found!r}") from error
    if name == "energy" and value.size == 1:
        return value.reshape(())
    if name == "stress" and value.size in (6, 9):
        value = value.reshape(3, 3) if value.size == 9 else np.asarray(voigt_6_to_full_3x3_stress(value.reshape(6)))
        volume = abs(np.linalg.det(atoms.cell.array))
        return -value / volume if "virial" in key.lower() and volume > 0 else value
    return value


NOT_LABELS = ("numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges")


def possible_labels(atoms: ase.Atoms) -> list[tuple[str, str]]:
    """Entries with the shape of a label that ASE does not know as labels, as (label, entry)."""
    found = [("energy", key) for key, value in atoms.info.items() if isinstance(value, (float, np.floating))]
    found += [
        ("stress", key)
        for key, value in atoms.info.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape in ((6,), (9,), (3, 3))
    ]
    shape = (len(atoms), 3)
    arrays = {key: value for key, value in atoms.arrays.items() if key not in NOT_LABELS}
    return found + [
        ("forces", key) for key, value in arrays.items() if value.dtype.kind == "f" and value.shape == shape
    ]


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
