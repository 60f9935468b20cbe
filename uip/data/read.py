"""From files to structures and labels: through ase.io, or from databases and from JSON entries (`uip.data.entries`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase
import ase.db
from ase.io import iread
from ase.io.formats import UnknownFileTypeError

from uip.config import existing_file
from uip.data.entries import holds_entries, read_entries
from uip.graph.ase_io import structure_from_atoms
from uip.graph.structure import Structure

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
