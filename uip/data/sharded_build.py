"""Builds a data store (`uip.data.sharded`): in several processes, and from where a killed build stopped.

    lock                  locked by the process that builds
    KEY-00000.npy         rows of a finished shard; its .bin and .jsonl were written before
    KEY.json              number of shards of a finished group of files

KEY is a hash of names, sizes and times of a group of files and of the settings: shards of a file that has changed since
are not used. store.json is written last; then the files above are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from uip.data.cache_build import lock, plain
from uip.data.dataset import checked_file
from uip.data.labels import ASE_NAMES, LabelKeys, Labels, check_labels
from uip.data.processes import run_all
from uip.data.sharded import VERSION, check_sizes, digest, read_content
from uip.data.sharded_record import ROW, element_bits, encode, label_bits
from uip.data.sources import find_files, group_files
from uip.graph.neighbors import count_graph
from uip.graph.structure import Structure

SHARD_SIZE = 20_000
"""Structures of a shard, about 40 MB; what a killed build loses at most in each process."""
OURS = re.compile(r"([0-9a-f]{16}(-\d{5}\.(bin|jsonl|npy)|\.json)|rows\.npy|store\.json)(\.tmp)?|lock")


@dataclass(frozen=True)
class BuildSettings:
    """What a data store depends on, beside its sources."""

    keys: LabelKeys = ASE_NAMES
    cutoff: float = 6.0
    """A, of the edges that are counted; the defaults are those of CHGNet."""
    bond_cutoff: float = 3.0
    """A, of the bonds whose angles are counted."""

    def __post_init__(self) -> None:
        if not 0.0 < self.bond_cutoff <= self.cutoff:
            raise ValueError(
                f"cutoffs must be positive and `bond_cutoff` must not exceed `cutoff`, got {self.bond_cutoff} and "
                f"{self.cutoff} A"
            )


@dataclass(frozen=True)
class Group:
    """Files that are read together; of their shards, `first`, `first + step`, ... are written."""

    folder: Path
    files: tuple[Path, ...]
    settings: BuildSettings
    first: int = 0
    step: int = 1

    @property
    def key(self) -> str:
        """Hash of the files and the settings."""
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        text = json.dumps([VERSION, SHARD_SIZE, asdict(self.settings), stamps])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def structures(self) -> Iterator[tuple[str, ase.Atoms, Structure, Labels]]:
        """The structures of all files, each with its file and number for messages."""
        for path in self.files:
            for number, found in enumerate(checked_file(path, self.settings.keys)):
                yield (f"{path}, structure {number}", *found)


def build_sharded(
    sources: Iterable[str],
    folder: Path,
    settings: BuildSettings,
    *,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a data store, or finish one whose build was interrupted; returns the number of structures.

    Args:
        sources: see `find_files`.
        workers: number of processes. Each reads files of its own; where there are fewer files than processes, every
            process reads all files, and checks and counts its part of the structures.
        report: called with the number of finished parts, and of all.

    Raises:
        ValueError: an unusable structure, with its file and number; or `folder` holds something else.
    """
    files = find_files(sources, folder)
    groups = [Group(folder, group, settings) for group in group_files(files)]
    keys = [group.key for group in groups]
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"):
        if (folder / "store.json").exists():
            return check_same(folder, keys)
        shards = write_groups(groups, workers, report)
        return finish(folder, keys, shards, files, settings)


def check_folder(folder: Path) -> None:
    """Raises ValueError if `folder` has files that no build wrote."""
    others = sorted(path.name for path in folder.iterdir() if not OURS.fullmatch(path.name)) if folder.is_dir() else []
    if others:
        raise ValueError(
            f"{folder} must be a new folder or a data store, but contains {', '.join(others[:3])}; choose another"
        )


def check_same(folder: Path, keys: list[str]) -> int:
    """The number of structures of a complete store; ValueError if it was built from something else."""
    content = read_content(folder)
    if content["groups"] != keys:
        raise ValueError(
            f"{folder} is a data store of other files or settings, or its files have changed since; choose another "
            "folder, or remove this one"
        )
    check_sizes(folder, content)
    return int(content["structures"])


def write_groups(groups: Sequence[Group], workers: int, report: Callable[[int, int], None]) -> list[str]:
    """Write the shards of all groups; returns their names, in order."""
    step = workers if len(groups) < workers else 1
    open_groups = [group for group in groups if not (group.folder / f"{group.key}.json").exists()]
    parts = [Group(group.folder, group.files, group.settings, k, step) for group in open_groups for k in range(step)]
    counts: dict[str, int] = {}
    for done, (part, count) in enumerate(run_all(write_part, parts, workers), 1):
        counts[part.key] = counts.get(part.key, 0) + 1
        if counts[part.key] == step:
            write_file(part.folder / f"{part.key}.json", json.dumps(count).encode())
        report(done, len(parts))
    return [
        f"{group.key}-{shard:05d}"
        for group in groups
        for shard in range(json.loads((group.folder / f"{group.key}.json").read_text()))
    ]


def write_part(group: Group) -> int:
    """Write the shards of a group that are not finished yet; returns the number of all its shards."""
    shard, key = -1, group.key
    for shard, items in groupby(enumerate(group.structures()), lambda item: item[0] // SHARD_SIZE):
        path = group.folder / f"{key}-{shard:05d}"
        if shard % group.step == group.first and not path.with_suffix(".npy").exists():
            write_shard(path, (item for _, item in items), group.settings)
    return shard + 1


def write_shard(path: Path, items: Iterable[tuple[str, ase.Atoms, Structure, Labels]], settings: BuildSettings) -> None:
    """Write the three files of a shard, its rows last."""
    rows: list[tuple[Any, ...]] = []
    records: list[bytes] = []
    lines: list[str] = []
    start = 0
    for where, atoms, structure, labels in items:
        try:
            check_labels(structure, labels)
            elements = element_bits(structure.atomic_numbers)
            counts = count_graph(structure, settings.cutoff, settings.bond_cutoff)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        record = encode(structure, labels)
        sizes = (structure.atomic_numbers.size, *counts)
        rows.append((0, start, len(record), zlib.crc32(record), *sizes, label_bits(labels), elements))
        records.append(record)
        lines.append(json.dumps(plain(atoms.info)) + "\n")
        start += len(record)
    write_file(path.with_suffix(".bin"), b"".join(records))
    write_file(path.with_suffix(".jsonl"), "".join(lines).encode())
    write_file(path.with_suffix(".npy"), np.array(rows, dtype=ROW))


def finish(folder: Path, keys: list[str], shards: list[str], files: list[Path], settings: BuildSettings) -> int:
    """Join the rows, write store.json, and remove the files of the build; returns the number of structures."""
    parts = [np.load(folder / f"{name}.npy") for name in shards]
    for number, part in enumerate(parts):
        part["shard"] = number
    rows = np.concatenate(parts)
    write_file(folder / "rows.npy", rows)
    content = {
        "version": VERSION,
        "structures": len(rows),
        "digest": digest(rows),
        "keys": asdict(settings.keys),
        "cutoff": settings.cutoff,
        "bond_cutoff": settings.bond_cutoff,
        "groups": keys,
        "sources": [str(path) for path in files],
        "shards": [{"name": name, "bytes": sizes_of(folder / name)} for name in shards],
    }
    write_file(folder / "store.json", json.dumps(content, indent=1).encode())
    kept = {"lock", "rows.npy", "store.json", *(f"{name}.{kind}" for name in shards for kind in ("bin", "jsonl"))}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return len(rows)


def sizes_of(shard: Path) -> dict[str, int]:
    """Bytes of the files of a shard."""
    return {suffix: shard.with_suffix(f".{suffix}").stat().st_size for suffix in ("bin", "jsonl")}


def write_file(path: Path, content: bytes | NDArray[Any]) -> None:
    """Write a file, which appears at once and is then on the disk; an array in numpy's format."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            np.save(file, content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
