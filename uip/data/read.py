"""From files to structures and labels: through ase.io, or from databases and from JSON entries (`uip.data.entries`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase
import ase.db
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import iread
from ase.io.formats import UnknownFileTypeError
from numpy.typing import NDArray

from uip.config import existing_file
from uip.data.entries import holds_entries, read_entries
from uip.neighbors import Structure, check_charge_and_spin, check_structure

Labels = dict[str, NDArray[np.float64]]
LABELS = ("energy", "forces", "stress", "magmoms")
"""energy () eV, forces (N, 3) eV/A, stress (3, 3) eV/A^3 positive under tension, magmoms (N,) mu_B, magnitudes."""

DATABASES = (".db", ".aselmdb")


def read_atoms(path: Path | str) -> Iterator[ase.Atoms]:
    """All frames of a file in any format that ASE reads, of an ASE database (.db, .aselmdb), of MPtrj or MatPES.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a format that nobody knows, a file that cannot be parsed, or no structure in it.
    """
    path = existing_file(path)
    if holds_entries(path):
        yield from _named(path, read_entries(path))
        return
    found = False
    try:
        for atoms in _rows(path) if path.suffix in DATABASES else iread(str(path), index=":"):
            found = True
            yield atoms
    except UnknownFileTypeError as error:
        raise ValueError(f"{path} must be in a format that ASE reads (extxyz, cif, POSCAR, ...): {error}") from error
    except (ValueError, KeyError, IndexError, AssertionError, EOFError, StopIteration, OSError) as error:
        raise ValueError(f"{path} cannot be read by ASE: {type(error).__name__}: {error}") from error
    if not found:
        raise ValueError(f"{path} must hold at least one structure, got none")


def _named(path: Path, frames: Iterator[ase.Atoms]) -> Iterator[ase.Atoms]:
    try:
        yield from frames
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


def _rows(path: Path) -> Iterator[ase.Atoms]:
    """The rows of a database, with what was stored beside them in `atoms.info`; charge and spin are often there."""
    try:
        database = ase.db.connect(str(path))
    except (ImportError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{path.suffix} needs the package ase-db-backends ({error}); run 'pip install ase-db-backends'"
        ) from error
    for row in database.select():
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        atoms.info.update({name: row.data[name] for name in ("charge", "spin") if name in row.data})
        yield atoms


def read_structures(path: Path | str) -> Iterator[tuple[ase.Atoms, Structure]]:
    """All frames of a file, with their checked arrays.

    Raises:
        ValueError: an unusable structure; the message names the file and the number of the structure.
    """
    for number, atoms in enumerate(read_atoms(path)):
        try:
            yield atoms, structure_from_atoms(atoms)
        except ValueError as error:
            raise ValueError(f"{path}, structure {number}: {error}") from error


def structure_from_atoms(atoms: ase.Atoms) -> Structure:
    """Checked arrays of an ASE structure; total charge and spin multiplicity from `atoms.info`."""
    charge, spin = charge_and_spin(atoms)
    return check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, charge=charge, spin=spin)


def charge_and_spin(atoms: ase.Atoms) -> tuple[int, int]:
    """Total charge and multiplicity, 0 and 1 where `atoms.info` does not say; ValueError if they cannot be."""
    return check_charge_and_spin(atoms.info.get("charge", 0), atoms.info.get("spin", 1))


def labels_from_atoms(atoms: ase.Atoms) -> Labels:
    """The labels that a structure carries, see `LABELS`; what is missing is left out."""
    labels = {name: _label(atoms, name) for name in LABELS}
    if labels["magmoms"] is not None:
        labels["magmoms"] = abs(labels["magmoms"])  # which way is up is a choice of the calculation
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
