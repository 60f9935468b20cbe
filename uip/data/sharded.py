"""A data store: structures and labels in a folder from which training reads them one by one, without graphs.

    store.json          written last: version, label keys, cutoffs of the counts, sources, shards, checksum of rows.npy
    rows.npy            one row (`ROW`) per structure, read through a memory map
    KEY-00000.bin       a shard: records of structures, one after the other (`uip.data.sharded_record`)
    KEY-00000.jsonl     text and numbers of `atoms.info`, one line per structure of the shard

`uip.data.sharded_build` writes the folder. Graphs are built on access, which takes as long as reading them would. A
record is read by one system call and not through a memory map, whose pages would count as memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uip.config import existing_file
from uip.data.dataset import GraphSettings, check_elements, make_targets
from uip.data.labels import ASE_NAMES, LABELS, LabelKeys, Labels
from uip.data.samples import Sample
from uip.data.sharded_record import LARGEST_ELEMENT, ROW, decode, elements_of, label_sizes
from uip.graph.neighbors import build_graph
from uip.graph.structure import Structure
from uip.schema import Integers

VERSION = 1
"""Increased when the layout changes."""
MOST_OPEN = 256
"""Shards that are open at the same time."""
ADVICE = "copy the store again, or remove its folder and build it anew"


class ShardedStore:
    """The samples of a data store; structures are read, and graphs built, on access.

    Args:
        folder: written by `uip data build`.
        settings: of the graphs. Edges and angles were counted for the cutoffs of the store; for others the counts are
            estimates, in proportion to the third power of `cutoff` and the sixth of `bond_cutoff`.

    Raises:
        ValueError: not a data store, one of another version, a damaged one, one that was built with other label keys,
            or one with elements that the model does not support.
    """

    def __init__(self, folder: Path, settings: GraphSettings) -> None:
        self.folder, self.settings = folder, settings
        self.content = read_content(folder)
        self.rows = read_rows(folder, self.content)
        check_sizes(folder, self.content)
        self._check_keys()
        self._check_elements()
        self.counts = self._counts()
        self._open = lru_cache(MOST_OPEN)(lambda shard: _Opened(os.open(self._path(shard, "bin"), os.O_RDONLY)))

    def _path(self, shard: int, suffix: str) -> Path:
        return self.folder / f"{self.content['shards'][shard]['name']}.{suffix}"

    def _check_keys(self) -> None:
        for label, key in vars(self.settings.keys).items():
            built = self.content["keys"][label]
            if key and key != built:
                found = f"'{built}'" if built else "ASE's own name"
                raise ValueError(
                    f"'data.{label}_key' must be that of {self.folder}, which was built with {found}, but is '{key}'; "
                    f"leave it out, or build the store with --{label}-key {key}"
                )

    def _check_elements(self) -> None:
        present = np.bitwise_or.reduce(self.rows["elements"], axis=0)
        try:
            check_elements(elements_of(present), self.settings)
        except ValueError as error:
            unknown = sorted(set(elements_of(present)) - set(self.settings.elements))
            first = min(int(np.flatnonzero(self.contains(z))[0]) for z in unknown)
            raise ValueError(f"{self.folder}, structure {first}: {error}") from error

    def _counts(self) -> dict[str, Integers]:
        edges = (self.settings.cutoff / self.content["cutoff"]) ** 3
        angles = ((self.settings.bond_cutoff or 0.0) / self.content["bond_cutoff"]) ** 6
        scales = {"N": ("atoms", 1.0), "E": ("edges", edges), "A": ("angles", angles)}
        return {letter: np.rint(scale * self.rows[name]).astype(np.int64) for letter, (name, scale) in scales.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def structure(self, k: int) -> tuple[Structure, Labels]:
        """Structure k and its labels, stress in eV/A^3.

        Raises:
            ValueError: its record is damaged.
        """
        row = self.rows[k]
        num_atoms, bits, shard = int(row["atoms"]), int(row["labels"]), int(row["shard"])
        record = os.pread(self._open(shard).number, int(row["size"]), int(row["start"]))
        if zlib.crc32(record) != row["checksum"]:
            raise ValueError(
                f"{self._path(shard, 'bin')} is damaged: the checksum of structure {k} of the store differs; {ADVICE}"
            )
        structure, labels = decode(bytearray(record), num_atoms, bits)
        if "stress" in labels:
            labels["stress"] = labels["stress"] * self.settings.stress_scale
        return structure, labels

    def __getitem__(self, k: int) -> Sample:
        structure, labels = self.structure(k)
        settings = self.settings
        graph = build_graph(structure, settings.cutoff, settings.bond_cutoff, settings.soft)
        return Sample(graph, make_targets(structure, labels))

    def read(self, name: str, k: int) -> Tensor | None:
        """One field of structure k, with its shape and dtype: a label, or what is known without its graph."""
        structure, labels = self.structure(k)
        if name in LABELS:
            label: Tensor = getattr(make_targets(structure, labels), name)
            return label
        value = torch.from_numpy(getattr(structure, name))
        return value[None] if name in ("cell", "pbc") else value

    def infos(self) -> Iterator[dict[str, Any]]:
        """Text and numbers of `atoms.info` of each structure, one after the other."""
        for shard in range(len(self.content["shards"])):
            with self._path(shard, "jsonl").open(encoding="utf-8") as lines:
                yield from json.loads(f"[{','.join(lines)}]")  # three times as fast as line by line

    def contains(self, element: int) -> NDArray[np.bool_]:
        """Whether each structure has atoms with this atomic number, (B,)."""
        word = self.rows["elements"][:, element // 64]
        return (word >> np.uint64(element % 64) & np.uint64(1)).astype(np.bool_)

    def num_labels(self, name: str) -> NDArray[np.int64]:
        """Number of labelled values of each structure, (B,)."""
        known = self.rows["labels"] >> LABELS.index(name) & 1
        atoms = self.counts["N"]
        none, one = label_sizes(0)[name], label_sizes(1)[name]
        return known * (none + (one - none) * atoms)

    def identity(self) -> bytes:
        """Checksum of all records, and the settings of this store, to compare data sets."""
        return f"{self.content['digest']} {self.settings.stress_scale}".encode()


def stored_structures(folder: Path, keys: LabelKeys = ASE_NAMES) -> Iterator[tuple[ase.Atoms, Structure, Labels]]:
    """The structures of a data store with their labels, as `uip.data.dataset.labelled_structures` of a file; atoms have
    no entries that could be labels, since a store keeps none.

    Raises:
        ValueError: as of `ShardedStore`.
    """
    content = read_content(folder)
    every = tuple(range(LARGEST_ELEMENT + 1))
    store = ShardedStore(folder, GraphSettings(content["cutoff"], content["bond_cutoff"], None, every, keys=keys))
    for k in range(len(store)):
        yield ase.Atoms(), *store.structure(k)


class _Opened:
    """A file that is open as long as this object exists: another thread may still read it when it leaves the cache."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def existing_source(path: Path | str) -> Path:
    """`path`, which must be a file or a data store."""
    path = Path(path)
    if path.is_dir():
        read_content(path)
        return path
    return existing_file(path)


def check_sizes(folder: Path, content: dict[str, Any]) -> None:
    """Raises ValueError if a file of a shard is missing or cut off."""
    for shard in content["shards"]:
        for suffix, expected in shard["bytes"].items():
            path = folder / f"{shard['name']}.{suffix}"
            size = path.stat().st_size if path.exists() else 0
            if size != expected:
                raise ValueError(f"{path} must have {expected} bytes, but has {size}; {ADVICE}")


def read_content(folder: Path) -> dict[str, Any]:
    """store.json of a data store.

    Raises:
        ValueError: not a data store, or one of another version.
    """
    path = folder / "store.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} must be a file or a data store, but is a folder without store.json; 'uip data build' writes a "
            "store, and finishes one whose build was interrupted"
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {ADVICE}") from error
    if content.get("version") != VERSION:
        raise ValueError(
            f"{folder} must be a data store of version {VERSION}, but has version {content.get('version')}; build it "
            "again with 'uip data build', or take the version of uip that wrote it"
        )
    return content


def read_rows(folder: Path, content: dict[str, Any]) -> NDArray[Any]:
    """The index of a data store, through a memory map; ValueError if it is damaged."""
    path = folder / "rows.npy"
    try:
        rows: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; {ADVICE}") from error
    if rows.dtype != ROW or digest(rows) != content["digest"]:
        raise ValueError(f"{path} is damaged: its checksum differs; {ADVICE}")
    return rows


def digest(rows: NDArray[Any]) -> str:
    """Hash of the index, which has the checksums of all records."""
    return hashlib.sha256(np.ascontiguousarray(rows).view(np.uint8).data).hexdigest()
