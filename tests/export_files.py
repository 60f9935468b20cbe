"""Exported programs for tests. Each is written once: workers and later runs find it in build/test_programs.

The name of a file's folder is a hash of what decides its content: the sources behind an export, the compiled library,
the version of torch and the model's weights.

`python tests/export_files.py` writes the compiled files of the slow tests, two at a time (`make slow` does it first).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import calibrated, random_allscaip, random_chgnet

from uip.checkpoint import load_model
from uip.models.potential import Potential
from uip.program.writer import export_model

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "test_programs"
UNRELATED = {"calculator.py", "cli", "data", "inference", "lammps", "openmm", "plugins.py", "train"}
"""Files and folders in `uip` that `uip.program.writer` does not use."""
KEPT_SECONDS = 7 * 24 * 3600
"""Folders that were not used for so long are deleted."""

COMPILED = pytest.mark.xdist_group("compiled")
"""Of tests that use the ".pt2" of "random": the other workers do not wait until it is compiled."""

ALLSCAIP = {
    "allscaip-plain": {},
    "allscaip-angular": {"angular": True},
    "allscaip-radial": {"radial": True},
    "allscaip-full": {"angular": True, "radial": True, "sink": True},
}

SLOW = [("allscaip-full", "float64"), ("chgnet-0.3.0", "float64"), ("random", "float64"), ("random", "float32")]
"""Compiled files that several slow tests use: one test would compile while the other workers wait for it."""


@functools.cache
def source(name: str) -> Potential:
    """The model behind a file, float64: "random", "random1", ... are small and know 30 elements, "calibrated" is the
    first with uncertainties, those of `ALLSCAIP` know 20 elements; others are published."""
    if name in ALLSCAIP:
        return random_allscaip(**ALLSCAIP[name])
    if name == "calibrated":
        return calibrated(random_chgnet())
    if name.startswith("random"):
        return random_chgnet(seed=int(name.removeprefix("random") or 0))
    return load_model(name, dtype="float64")


@functools.cache
def exported(name: str, suffix: str, dtype: str = "float64") -> Path:
    """The file of `source(name)`, to be read only: a first ".pt2" takes from one to four minutes to compile, a ".pt"
    from 5 s (CHGNet) to 15 s (AllScAIP) to trace."""
    folder = CACHE / key_of(source(name))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{dtype}{suffix}"
    with locked(path.with_name(path.name + ".lock")):
        os.utime(folder)
        if not path.exists():
            export_model(source(name), path, dtype=dtype)  # it appears as a whole
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with its process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def key_of(model: Potential) -> str:
    """A name for all that decides the files of `model`."""
    total = hashlib.sha256(sources_hash() + f"{model.name} {model.config} {model.card} {model.coverage}".encode())
    for name, tensor in sorted({**model.state_dict(), **dict(model.named_buffers())}.items()):
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


@functools.cache
def sources_hash() -> bytes:
    """Of the code behind an export; the first call of a process also deletes what is no longer used."""
    remove_unused()
    total = hashlib.sha256(f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}".encode())
    for path in sorted((ROOT / "uip").rglob("*")):
        if path.suffix in (".py", ".so") and UNRELATED.isdisjoint(path.relative_to(ROOT / "uip").parts):
            total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return total.digest()


def remove_unused() -> None:
    for folder in CACHE.glob("*"):
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    with ProcessPoolExecutor(2) as pool:
        for written in [pool.submit(exported, name, ".pt2", dtype) for name, dtype in SLOW]:
            written.result()


if __name__ == "__main__":
    main()
