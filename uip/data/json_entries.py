"""Data sets of JSON entries: MPtrj (training data of CHGNet) and MatPES.

    MPtrj     { material: { frame: entry, ... }, ... }       MatPES     [ entry, ... ], or one entry per line

An entry is a pymatgen structure, as a dictionary, with labels from VASP: energy in eV, forces in eV/A, stress in kBar
and positive under compression (times -0.1: GPa, positive under tension). A label may be missing or null.
Layouts: figshare 23713842 (MPtrj), matpes.ai/dataset (MatPES). MPtrj has 12 GB, so files are read in pieces.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from uip.units import EV_PER_A3_TO_GPA

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
PIECE = 1 << 20
"""Characters per read."""

KBAR = -0.1 / EV_PER_A3_TO_GPA
"""1 kBar of VASP in eV/A^3, positive under tension."""

NAMES = {"forces": ("forces", "force"), "stress": ("stress",), "magmoms": ("magmoms", "magmom")}
KEPT = ("material", "frame", "mp_id", "matpes_id", "functional", "uncorrected_total_energy", "ef_per_atom", "bandgap")
"""Other keys of an entry that are copied to `atoms.info`."""


def holds_entries(path: Path) -> bool:
    """Whether a JSON file has this layout: the first entry has a structure (ASE's own JSON has none)."""
    if not path.name.endswith(SUFFIXES):
        return False
    try:
        _, first = next(_pieces(path), (None, None))
    except json.JSONDecodeError:
        return False
    if isinstance(first, Mapping) and "structure" not in first:
        first = next(iter(first.values()), None)
    return isinstance(first, Mapping) and "structure" in first


def read_entries(path: Path) -> Iterator[ase.Atoms]:
    """All structures of a file with their labels, in eV and A, stress positive under tension.

    `atoms.info` has `material` and `frame` (MPtrj), and the keys in `KEPT`.

    Raises:
        ValueError: an entry without a structure, a disordered structure, a label of the wrong shape, or invalid JSON.
    """
    number = 0
    for key, piece in _pieces(path):
        frames = key is not None and isinstance(piece, Mapping) and "structure" not in piece
        entries: Mapping[Any, Any] = piece if frames else {None: piece}
        for frame, entry in entries.items():
            known = {"material": key, "frame": frame}
            try:
                yield _atoms({**entry, **{name: value for name, value in known.items() if value is not None}})
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"structure {number}: an entry must be a table with a pymatgen structure and labels, but "
                    f"{type(error).__name__}: {error}"
                ) from error
            except ValueError as error:
                raise ValueError(f"structure {number}: {error}") from error
            number += 1


def _atoms(entry: Mapping[str, Any]) -> ase.Atoms:
    atoms = _structure(entry["structure"])
    labels = {name: _first(entry, names) for name, names in NAMES.items()}
    labels = {name: np.array(value, dtype=np.float64) for name, value in labels.items() if value is not None}
    if "stress" in labels:
        labels["stress"] = _tensor(labels["stress"] * KBAR)
    energy = _energy(entry, len(atoms))
    if energy is not None:
        labels["energy"] = np.float64(energy)
    # not through the constructor, whose errors for misshapen arrays do not name the label; `check_labels` does
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results.update(labels)
    atoms.info.update({name: entry[name] for name in KEPT if entry.get(name) is not None})
    provenance = entry.get("provenance") or {}
    if "original_mp_id" in provenance:
        atoms.info["mp_id"] = provenance["original_mp_id"]
    return atoms


def _tensor(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3), from six numbers in ASE's Voigt order, or from (3, 3)."""
    if stress.shape not in ((6,), (3, 3)):
        raise ValueError(f"stress must have six numbers, or three rows of three, got the shape {stress.shape}")
    return stress if stress.shape == (3, 3) else np.asarray(voigt_6_to_full_3x3_stress(stress), dtype=np.float64)


def _energy(entry: Mapping[str, Any], num_atoms: int) -> float | None:
    """Total energy, eV. MPtrj: only the corrected energy, on which the published models were trained."""
    for name, atoms in (("energy", 1), ("corrected_total_energy", 1), ("energy_per_atom", num_atoms)):
        if entry.get(name) is not None:
            return float(entry[name]) * atoms
    return None


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _structure(values: Mapping[str, Any]) -> ase.Atoms:
    """The structure of a pymatgen dictionary."""
    sites, lattice = values["sites"], values.get("lattice") or {"matrix": np.zeros((3, 3)), "pbc": False}
    cell = np.array(lattice["matrix"], dtype=np.float64)
    symbols = [_element(site) for site in sites]
    positions = [site["xyz"] if "xyz" in site else np.array(site["abc"]) @ cell for site in sites]
    return ase.Atoms(symbols, np.array(positions).reshape(-1, 3), cell=cell, pbc=lattice.get("pbc", True))


def _element(site: Mapping[str, Any]) -> str:
    species = site["species"]
    if len(species) != 1 or abs(species[0].get("occu", 1) - 1.0) > 1e-6:
        raise ValueError(f"every site must hold one atom, got the occupations {species}; remove disordered structures")
    return str(species[0]["element"])


def _pieces(path: Path) -> Iterator[tuple[str | None, Any]]:
    """The values of the outermost list, object or sequence of lines, with their keys if they are in an object."""
    with gzip.open(path, "rt", encoding="utf-8") if path.name.endswith(".gz") else path.open(encoding="utf-8") as file:
        text = _Text(file)
        opening = text.next()
        keyed = opening == "{" and not path.name.endswith((".jsonl", ".jsonl.gz"))
        if keyed or opening == "[":
            text.skip()
        while (character := text.next()) not in ("", "]", "}"):
            if character == ",":
                text.skip()
                continue
            key = str(text.value()) if keyed else None
            if keyed and text.next() == ":":
                text.skip()
            yield key, text.value()
        if not character and (keyed or opening == "["):
            raise ValueError("the file ends in the middle; fetch it again")


class _Text:
    """Text of a file, of which only the current piece is in memory."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.at = file, "", 0
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Read more, at least as much as is buffered, so that a long value takes few attempts to decode."""
        rest = self.text[self.at :]
        new = self.file.read(max(PIECE, len(rest)))
        self.text, self.at = rest + new, 0
        return bool(new)

    def next(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def skip(self) -> None:
        """Skip one character."""
        self.at += 1

    def value(self) -> Any:
        """The next list, object or string."""
        self.next()
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                if not self.more():
                    raise
            else:
                return value
