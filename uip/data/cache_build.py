"""Builds the folder of a `Store`: by one process at a time, and from where a killed process stopped.

    NAME.lock               locked by the process that builds NAME, or looks whether it is complete
    NAME.building/          the files of the store, and rows.bin, from which rows.npy is made
    NAME.building/done      JSON: number of structures that are surely on the disk, and sizes of the files with them

The lock (flock) ends with its process, however that ends. Other processes wait for it as long as it takes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from uip.data.cache import COLUMNS, DTYPES, STORED, WIDTHS, row_letter
from uip.data.samples import Sample
from uip.schema import FIELDS

CHECKPOINT = 1000
"""Structures between two checkpoints of a build: a few seconds."""

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK}

Samples = Callable[[int], Iterable[Sample]]
"""The samples of a file from a number on, one structure each."""


def build_store(folder: Path, samples: Samples) -> None:
    """Write the samples to `folder`, unless it is complete; it appears at once.

    Raises:
        OSError: the file system has no locks, or is full; what was written before is used by the next build.
        ValueError: of `samples`; what was written before is removed.
    """
    if (folder / "complete").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            write_store(folder, samples)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Within the context, no other process has the lock `path`, on this or another machine."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise OSError(
                error.errno, f"the file system must support locks (flock), but gives '{error.strerror}'"
            ) from error
        yield


def write_store(folder: Path, samples: Samples) -> None:
    """Write the samples to `folder`; goes on with an earlier build that was interrupted."""
    building = folder.with_name(f"{folder.name}.building")
    try:
        with Writer(building) as writer:
            for sample in samples(writer.count):
                writer.append(sample)
                if writer.count % CHECKPOINT == 0:
                    writer.sync()
            writer.sync()
    except ValueError:  # the samples are to blame: another file follows
        shutil.rmtree(building, ignore_errors=True)
        raise
    rows = np.fromfile(building / "rows.bin", dtype=np.int64).reshape(-1, len(COLUMNS))
    np.save(building / "rows.npy", rows)
    for name in ("rows.bin", "done"):
        (building / name).unlink()
    (building / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    building.replace(folder)


class Writer:
    """Appends samples to the files of a store; what was written after the last `sync` of an earlier build is cut off.

    Attributes:
        count: number of samples in the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.files: dict[str, IO[bytes]] = {}
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "done").exists():
            done = json.loads((folder / "done").read_text())
            self.count = done["count"]
            for name, size in done["sizes"].items():
                os.truncate(folder / name, size)
            for path in folder.iterdir():
                if path.name not in ("done", *done["sizes"]):
                    path.unlink()

    def __enter__(self) -> Writer:
        for name in ("rows.bin", "info.jsonl", *(path.name for path in self.folder.glob("*.bin"))):
            self._file(name)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()

    def _file(self, name: str) -> IO[bytes]:
        if name not in self.files:
            self.files[name] = (self.folder / name).open("ab")
        return self.files[name]

    def append(self, sample: Sample) -> None:
        """Write one sample."""
        counts = dict.fromkeys(COLUMNS, 0)
        values = {**sample.graph.tensors(), **vars(sample.targets)}
        for name in (name for group in STORED.values() for name in group if name in values):
            field, value = FIELDS[name], values[name]
            counts[row_letter(name)] = value.shape[field.batch_axis]
            if name in WIDTHS:
                counts[WIDTHS[name]] = value.shape[1]
            array = value.movedim(field.batch_axis, 0).contiguous().numpy().astype(DTYPES[field.dtype])
            self._file(f"{name}.bin").write(array.tobytes())
        self._file("rows.bin").write(np.array([counts[letter] for letter in COLUMNS], dtype=np.int64).tobytes())
        self._file("info.jsonl").write(f"{json.dumps(plain(sample.info))}\n".encode())
        self.count += 1

    def sync(self) -> None:
        """Bring everything to the disk, so that a later build goes on from here."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: file.tell() for name, file in self.files.items()}
        temporary = self.folder / "done.tmp"
        with temporary.open("w") as text:
            json.dump({"count": self.count, "sizes": sizes}, text)
            text.flush()
            os.fsync(text.fileno())
        temporary.replace(self.folder / "done")


def plain(info: dict[str, Any]) -> dict[str, Any]:
    """The values that are text or numbers."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in info.items()}
    return {name: value for name, value in values.items() if isinstance(value, (str, int, float))}
