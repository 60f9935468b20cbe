"""From files to structures and labels, through ase.io."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import iread
from ase.io.formats import UnknownFileTypeError
from numpy.typing import NDArray

from uip.neighbors import Structure, check_structure

Labels = dict[str, NDArray[np.float64]]
LABELS = ("energy", "forces", "stress", "magmoms")
"""energy () eV, forces (N, 3) eV/A, stress (3, 3) eV/A^3 positive under tension, magmoms (N,) mu_B."""


def read_atoms(path: Path | str) -> Iterator[ase.Atoms]:
    """All frames of a file in any format that ASE reads.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a format ASE does not know, a file it cannot parse, or no structure in it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    found = False
    try:
        for atoms in iread(str(path), index=":"):
            found = True
            yield atoms
    except UnknownFileTypeError as error:
        raise ValueError(f"{path} must be in a format that ASE reads (extxyz, cif, POSCAR, ...): {error}") from error
    except (ValueError, KeyError, IndexError, AssertionError, EOFError, StopIteration, OSError) as error:
        raise ValueError(f"{path} cannot be read by ASE: {type(error).__name__}: {error}") from error
    if not found:
        raise ValueError(f"{path} must hold at least one structure, got none")


def structure_from_atoms(atoms: ase.Atoms) -> Structure:
    """Checked arrays of an ASE structure; total charge and spin multiplicity from `atoms.info`."""
    return check_structure(
        atoms.numbers,
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        charge=int(atoms.info.get("charge", 0)),
        spin=int(atoms.info.get("spin", 1)),
    )


def labels_from_atoms(atoms: ase.Atoms) -> Labels:
    """The labels that a structure carries, see `LABELS`; what is missing is left out."""
    labels = {name: _label(atoms, name) for name in LABELS}
    return {name: value for name, value in labels.items() if value is not None}


def _label(atoms: ase.Atoms, name: str) -> NDArray[np.float64] | None:
    if atoms.calc is None:
        return None
    try:
        if name == "stress":
            return np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
        # energies as given, not extrapolated to zero smearing
        value = atoms.calc.get_property(name, atoms, allow_calculation=False)
    except (PropertyNotImplementedError, NotImplementedError):
        return None
    return None if value is None else np.asarray(value, dtype=np.float64)
