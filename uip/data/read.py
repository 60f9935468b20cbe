"""Reads structures and labels: with ase.io, from ASE databases, and from JSON entries (`uip.data.json_entries`)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import ase
import ase.db
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat
from ase.utils import string2index

from uip.config import existing_file
from uip.data.json_entries import holds_entries, read_entries
from uip.data.species import ReadError, check_species, names_elements, with_species
from uip.graph.ase_io import structure_from_atoms
from uip.graph.structure import Structure

DATABASES = (".db", ".aselmdb")
STDIN = "-"
UNREADABLE = (ValueError, KeyError, IndexError, AssertionError, EOFError, StopIteration, OSError, RuntimeError)
"""What readers of ASE raise for broken files."""


def read_atoms(
    path: Path | str, *, kind: str | None = None, index: str = ":", species: Sequence[str] = ()
) -> Iterator[ase.Atoms]:
    """Frames of a file in any format that ASE reads, of an ASE database (.db, .aselmdb), of MPtrj or MatPES.

    Args:
        path: a file; "-": standard input, in extxyz without `kind`; "NAME@0:2": the frames 0:2 of the file NAME.
        kind: ASE's name of the format; None: found from name and content.
        index: as of a Python list, "0", "-1", "0:10:2".
        species: elements of types 1, 2, ... of a LAMMPS file that does not name them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown format, a file that cannot be parsed, atoms without elements, or no structure in it.
    """
    if str(path) == STDIN:
        found = _from_ase(path, lambda: iread(_standard_input(), _as_slice(index), kind or "extxyz"))
    else:
        path, index = _split_index(path, index)
        if kind is None and holds_entries(existing_file(path)):
            found = _named(path, _selected(read_entries(path), index))
        else:
            found = _from_ase(path, lambda: _frames(existing_file(path), kind, index, species))
    first = next(found, None)
    if first is None:
        raise ReadError(f"{path} must hold at least one structure{_advice(index)}")
    yield first
    yield from found


def _advice(index: str) -> str:
    """After "at least one structure"."""
    if index == ":":
        return (
            ", got none; where this is the wrong format, name another with --format, for example lammps-data, vasp "
            "or extxyz"
        )
    return f" at {index}, got none; the index leads beyond the last structure, take a smaller one"


def _split_index(path: Path | str, index: str) -> tuple[Path, str]:
    """ "traj.xyz@0:2" as a file and an index, unless a file has that very name."""
    name, at, chosen = str(path).rpartition("@")
    if not at or Path(path).exists() or not Path(name).exists():
        return Path(path), index
    return Path(name), chosen


def _standard_input() -> io.StringIO:
    """The whole of standard input: ASE needs a seekable file."""
    return io.StringIO(sys.stdin.read())


def _frames(path: Path, kind: str | None, index: str, species: Sequence[str]) -> Iterator[ase.Atoms]:
    if kind is None and path.suffix in DATABASES:
        return _selected(_rows(path), index)
    kind = kind or filetype(str(path))
    get_ioformat(kind)
    check_species(path, kind, species)
    frames = iread(str(path), _as_slice(index), kind, do_not_split_by_at_sign=True)
    return frames if names_elements(path, kind) else with_species(path, frames, species)


def _as_slice(index: str) -> slice:
    """An index or slice of a Python list.

    Raises:
        ReadError: neither.
    """
    try:
        chosen = string2index(index)
    except ValueError:
        chosen = index
    if isinstance(chosen, str):
        raise ReadError(f"an index of frames must be like 0, -1, 0:10 or ::2, got '{index}'")
    return chosen if isinstance(chosen, slice) else slice(chosen, chosen + 1 or None)


def _selected(frames: Iterator[ase.Atoms], index: str) -> Iterator[ase.Atoms]:
    chosen = _as_slice(index)
    if all(value is None or value >= 0 for value in (chosen.start, chosen.stop, chosen.step)):
        return islice(frames, chosen.start, chosen.stop, chosen.step)
    return iter(list(frames)[chosen])


def _from_ase(path: Path | str, frames: Callable[[], Iterator[ase.Atoms]]) -> Iterator[ase.Atoms]:
    """Frames, with the file's name in all that goes wrong."""
    try:
        yield from frames()
    except (ReadError, FileNotFoundError, IsADirectoryError):
        raise
    except UnknownFileTypeError as error:
        raise ReadError(
            f"{path} must be in a format that ASE reads (extxyz, cif, POSCAR, ...): {error}; if its name "
            "is not enough, set it with --format, for example lammps-data, vasp or extxyz"
        ) from error
    except UNREADABLE as error:
        raise ReadError(f"{path} cannot be read by ASE: {type(error).__name__}: {error}") from error


def _named(path: Path, frames: Iterator[ase.Atoms]) -> Iterator[ase.Atoms]:
    try:
        yield from frames
    except ValueError as error:
        raise ReadError(f"{path}, {error}") from error


def _rows(path: Path) -> Iterator[ase.Atoms]:
    """The rows of a database; key-value pairs, charge and spin go to `atoms.info`."""
    try:
        database = ase.db.connect(str(path))
    except (ImportError, AssertionError, ValueError) as error:
        raise ReadError(
            f"{path.suffix} needs the package ase-db-backends ({error}); run 'pip install ase-db-backends'"
        ) from error
    for row in database.select():
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        atoms.info.update({name: row.data[name] for name in ("charge", "spin") if name in row.data})
        yield atoms


def read_structures(
    path: Path | str, *, kind: str | None = None, species: Sequence[str] = ()
) -> Iterator[tuple[ase.Atoms, Structure]]:
    """All frames of a file, with their checked arrays; arguments as of `read_atoms`.

    Raises:
        ValueError: an unusable structure; the message names the file and the number of the structure.
    """
    for number, atoms in enumerate(read_atoms(path, kind=kind, species=species)):
        try:
            yield atoms, structure_from_atoms(atoms)
        except ValueError as error:
            raise ValueError(f"{path}, structure {number}: {error}") from error
