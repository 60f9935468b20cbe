"""Exported programs for tests, each written once in a run of the tests."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from conftest import random_allscaip, random_chgnet

from uip.checkpoint import load_model
from uip.models.potential import Potential
from uip.program.writer import export_model


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="uip-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


ALLSCAIP = {
    "allscaip-plain": {},
    "allscaip-angular": {"angular": True},
    "allscaip-radial": {"radial": True},
    "allscaip-full": {"angular": True, "radial": True},
}


@functools.cache
def source(name: str) -> Potential:
    """The model behind a file, float64: "random" is small and knows 30 elements, those of `ALLSCAIP` 20; others are
    published."""
    if name in ALLSCAIP:
        return random_allscaip(**ALLSCAIP[name])
    return random_chgnet() if name == "random" else load_model(name, dtype="float64")


@functools.cache
def exported(name: str, suffix: str, dtype: str = "float64") -> Path:
    """The file of `source(name)`: ".pt2" takes from 20 s (random) to a minute (published) to compile, ".pt" of an
    AllScAIP 10 s to trace."""
    path = folder() / f"{name}-{dtype}{suffix}"
    export_model(source(name), path, dtype=dtype)
    return path
