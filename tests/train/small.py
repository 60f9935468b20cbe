"""A data set and a config small enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import systems
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import random_chgnet

from uip import Calculator
from uip.train.config import TrainConfig, make_config
from uip.train.curves import Curves

torch.set_num_threads(1)  # structures are tiny: more threads cost more than they bring

ARCHITECTURE = {"num_elements": 30, "channels": 8, "num_layers": 3, "num_radial": 5, "num_angular": 5, "num_readout": 1}


def frames(count: int = 8) -> list[Atoms]:
    """Distorted cells of four crystals and molecules, labelled by a model with random weights."""
    calculator, result = Calculator(random_chgnet()), []
    for k in range(count):
        atoms = (systems.tiny_cell, systems.si_rattled, systems.water, systems.nio)[k % 4]()
        atoms.rattle(0.05, seed=100 + k)
        atoms.calc = calculator
        labels: dict[str, Any] = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.pbc.all():
            labels["stress"] = atoms.get_stress()
        if k % 4 == 3:
            labels["magmoms"] = atoms.get_magnetic_moments()
        atoms.calc = SinglePointCalculator(atoms, **labels)
        result.append(atoms)
    return result


def write_frames(path: Path, count: int = 8) -> Path:
    """`frames` as a file."""
    write(path, frames(count))
    return path


def config(folder: Path, file: Path, **tables: dict[str, Any]) -> TrainConfig:
    """Train and validate on `file`, in float64, unless `tables` change that."""
    defaults: dict[str, dict[str, Any]] = {
        "model": {"architecture": ARCHITECTURE},
        "data": {"train": [str(file)], "validation": [str(file)], "batch_size": 4, "cache": str(file.parent / "cache")},
        "optim": {"learning_rate": 5e-3, "ema": 0.9, "clip": 100.0},
        "run": {"folder": str(folder), "epochs": 3, "dtype": "float64", "device": "cpu", "threads": 1},
    }
    names = {*defaults, *tables}
    return make_config({name: {**defaults.get(name, {}), **tables.get(name, {})} for name in names})


def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no learning curves, which takes longer than their steps."""
    monkeypatch.setattr(Curves, "draw", lambda self, image: None)


def toml(values: dict[str, Any]) -> str:
    """A config as the text of a TOML file."""

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {text(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(text(item) for item in value) + "]"
        return repr(value) if isinstance(value, (int, float, np.floating)) else f'"{value}"'

    return "\n".join(
        f"[{table}]\n" + "".join(f"{key} = {text(value)}\n" for key, value in settings.items() if value is not None)
        for table, settings in values.items()
    )
