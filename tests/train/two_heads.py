"""Data of two levels of theory, "pbe" and "meta", and configs that train a head for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import small
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import random_chgnet

from uip.checkpoint import save_checkpoint
from uip.train.config import TrainConfig

OFFSETS = {1: 0.7, 8: -2.5, 12: -1.0, 14: 3.0, 28: 1.5}
"""eV: the zero of energy of "meta" minus that of "pbe", for the elements of `small.frames`."""
NEW: dict[str, Any] = {"init_from": "", "architecture": small.ARCHITECTURE}
"""[model] from random weights."""


def write_set(path: Path, numbers: range, scale: float = 0.0) -> Path:
    """Some of `small.frames`, their energies moved by `scale` times `OFFSETS`."""
    frames = [small.frames(numbers.stop)[k] for k in numbers]
    for atoms in frames:
        labels = dict(atoms.calc.results)
        labels["energy"] += scale * sum(OFFSETS[z] for z in atoms.numbers)
        atoms.calc = SinglePointCalculator(atoms, **labels)
    ase.io.write(path, frames)
    return path


def write_files(folder: Path) -> dict[str, Path]:
    """pbe: five structures; meta: five others; plain: three of "meta" without Ni and moments; old: the model of all
    labels, but for the zero of "meta"; cache: an empty folder."""
    save_checkpoint(random_chgnet(), folder / "old.ckpt")
    return {
        "old": folder / "old.ckpt",
        "cache": folder / "cache",
        "pbe": write_set(folder / "pbe.xyz", range(5)),
        "meta": write_set(folder / "meta.xyz", range(5, 10), 1.0),
        "plain": write_set(folder / "plain.xyz", range(4, 7), 1.0),
    }


def two_heads(folder: Path, files: dict[str, Path], **tables: dict[str, Any]) -> TrainConfig:
    """Fine-tune old.ckpt: the main set trains "pbe", the set "other" trains "meta"."""
    other = {"train": str(files["meta"]), "head": "meta", **tables.pop("other", {})}
    other.setdefault("validation", other["train"])
    data = {"sets": {"other": other}, "cache": str(files["cache"]), **tables.pop("data", {})}
    model = {"init_from": str(files["old"]), "architecture": {}, "heads": ["pbe", "meta"], **tables.pop("model", {})}
    return small.config(folder, files["pbe"], data=data, model=model, **tables)
