"""Elements of files that number their atoms by type: LAMMPS dumps and data files.

ASE reads type 1 as H and type 2 as He, or takes the element of the nearest mass. Here a file must name its elements, or
the caller names one element for each type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_masses, atomic_numbers
from ase.io.formats import open_with_compression

from uip.config import suggestion

BY_TYPE = ("lammps-dump-text", "lammps-dump-binary", "lammps-data")
"""Formats of ASE whose atoms have types."""
HEAD = 1 << 20
"""Bytes of a dump in which the first line of columns is looked for."""
MASS_TOLERANCE = 0.1
"""g/mol between the mass of a type and that of its element."""


class ReadError(ValueError):
    """A file that cannot be read, or that does not name its elements."""


def names_elements(path: Path, kind: str) -> bool:
    """Whether a file of the format `kind` names the element of each atom."""
    if kind != "lammps-dump-text":
        return kind not in BY_TYPE
    with open_with_compression(str(path), "rb") as file:
        head: bytes = file.read(HEAD)
    columns = next((line.split() for line in head.splitlines() if line.startswith(b"ITEM: ATOMS")), [])
    return b"element" in columns


def check_species(path: Path, kind: str, species: Sequence[str]) -> None:
    """Check that `species` and the format `kind` of `path` together define the element of each atom.

    Raises:
        ReadError: they do not, or both define elements.
    """
    known = set(atomic_numbers) - {"X"}  # ASE's name for no element
    for symbol in species:
        if symbol not in known:
            raise ReadError(f"`species` must be element symbols, got '{symbol}'{suggestion(symbol, known)}")
    named = names_elements(path, kind)
    if named and species:
        raise ReadError(f"`species` is for files with types only, but {path} names its elements; leave it out")
    if not named and not species and kind != "lammps-data":
        raise ReadError(
            f"{path} must name the element of each atom, but has types only; list one element for each type "
            "(--species Si O), or write the dump with 'dump custom ... element' and 'dump_modify ... element'"
        )


def with_species(path: Path, frames: Iterator[ase.Atoms], species: Sequence[str]) -> Iterator[ase.Atoms]:
    """Frames of a format in `BY_TYPE`; type k receives the element `species[k - 1]`."""
    for atoms in frames:
        if species:
            atoms.numbers = _numbers(path, atoms, species)
        else:
            _check_masses(path, atoms)
        yield atoms


def _numbers(path: Path, atoms: ase.Atoms, species: Sequence[str]) -> np.ndarray:
    types = np.asarray(atoms.arrays.get("type", atoms.numbers), dtype=np.int64)
    if types.min(initial=1) < 1 or types.max(initial=0) > len(species):
        raise ReadError(
            f"`species` must name an element for each type, but those of {path} reach from {types.min()} to "
            f"{types.max()}, and it names {len(species)}: {' '.join(species)}"
        )
    return np.array([atomic_numbers[symbol] for symbol in species])[types - 1]


def _check_masses(path: Path, atoms: ase.Atoms) -> None:
    """A data file: ASE takes elements from masses, else from labels of types, else from their numbers."""
    far = np.abs(atoms.get_masses() - atomic_masses[atoms.numbers]) > MASS_TOLERANCE
    numbered = not atoms.has("masses") and np.array_equal(atoms.numbers, atoms.arrays.get("type", []))
    if numbered or far.any():
        found = "neither" if numbered else f"the mass {atoms.get_masses()[far][0]:g}"
        raise ReadError(
            f"{path} must name elements by type labels or by their masses, but has {found}; "
            "list one element for each type (--species Si O)"
        )
