"""Measures all finished runs of `train.py` on the test sets and writes docs/figures/long_range.json.

    python measure.py

Errors are mean absolute errors: energies in meV/atom, components of forces in meV/A. `size` is the mean absolute value
of the labels, the error of a model that predicts no force. Runs that are in the file already are not measured again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from train import HERE, Run, runs

from uip.data.read import read_atoms
from uip.graph.ase_io import structure_from_atoms
from uip.inference.evaluator import load_evaluator, predict
from uip.train.metrics import read_log

RESULTS = HERE.parents[1] / "docs" / "figures" / "long_range.json"
TESTS = {"random_charges": ("test", "16", "64"), "pairs": ("test",)}
"""Sets of each kind, by the ends of their names."""
EDGES = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0)
"""A; limits of the bins of distance."""
RANGES = {"within the cutoff": (3.0, 5.0), "beyond it, trained": (6.0, 10.0), "beyond training": (10.0, 25.0)}
"""A; of pairs. HF reaches 0.5 A from its centre."""
POINTS = 300
"""Of a parity plot."""


@dataclass(frozen=True)
class Predicted:
    """A structure with its labels, and what a model predicts for it."""

    atoms: Atoms
    energy: float
    forces: np.ndarray

    @property
    def energy_error(self) -> float:
        """meV/atom."""
        return 1e3 * abs(self.energy - self.atoms.get_potential_energy()) / len(self.atoms)

    @property
    def force_errors(self) -> np.ndarray:
        """(N, 3) meV/A."""
        return 1e3 * np.abs(self.forces - self.atoms.get_forces())


def predicted(model: str | Path, frames: Sequence[Atoms]) -> list[Predicted]:
    """Predictions of the checkpoint `model`."""
    found = predict(load_evaluator(model), map(structure_from_atoms, frames))
    return [Predicted(atoms, float(one["energy"]), one["forces"]) for atoms, one in zip(frames, found, strict=True)]


def errors(items: Sequence[Predicted]) -> dict[str, float]:
    """Mean absolute errors and the size of the forces."""
    return {
        "energy": float(np.mean([item.energy_error for item in items])),
        "forces": mean(item.force_errors for item in items),
        "size": mean(1e3 * np.abs(item.atoms.get_forces()) for item in items),
    }


def mean(arrays: Any) -> float:
    """Of all numbers in arrays of several shapes."""
    return float(np.mean(np.concatenate([array.ravel() for array in arrays])))


def between(items: Sequence[Predicted], limits: tuple[float, float], kind: str = "") -> list[Predicted]:
    """Pairs at distances within the limits, of one kind or of all."""
    return [
        item
        for item in items
        if limits[0] <= item.atoms.info["distance"] < limits[1] and kind in ("", item.atoms.info["kind"])
    ]


def by_distance(items: Sequence[Predicted]) -> dict[str, Any]:
    """Errors of pairs in bins of distance that are not empty, and in ranges by kind."""
    bins = [limits for limits in itertools.pairwise(EDGES) if between(items, limits)]
    kinds = ["", *dict.fromkeys(item.atoms.info["kind"] for item in items)]
    return {
        "bins": [{"from": a, "to": b, **errors(between(items, (a, b)))} for a, b in bins],
        "ranges": {
            name: {kind or "all": errors(between(items, limits, kind)) for kind in kinds}
            for name, limits in RANGES.items()
        },
    }


def parity(items: Sequence[Predicted]) -> dict[str, list[float]]:
    """Some force components, eV/A: labels and predictions."""
    labels = np.concatenate([item.atoms.get_forces().ravel() for item in items])
    found = np.concatenate([item.forces.ravel() for item in items])
    chosen = np.random.default_rng(0).choice(len(labels), min(POINTS, len(labels)), replace=False)
    return {"label": labels[chosen].round(4).tolist(), "predicted": found[chosen].round(4).tolist()}


def measured(run: Run) -> dict[str, Any]:
    """All numbers of one run."""
    result: dict[str, Any] = asdict(run) | {"seconds": read_log(run.folder / "log.jsonl")[-1]["seconds"], "errors": {}}
    for name in TESTS[run.data]:
        items = predicted(run.folder / "best.ckpt", list(read_atoms(HERE / f"{run.data}_{name}.xyz")))
        result["errors"][name] = errors(items)
        if run.data == "pairs":
            result["distance"] = by_distance(items)
        if name == "test" and run.seed == 0:
            result["parity"] = parity(items)
    return result


def main() -> None:
    """Add what is new to the file."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    keys = [field.name for field in fields(Run)]
    known = [{key: result[key] for key in keys} for result in results]
    for run in runs():
        if run.is_finished and asdict(run) not in known:
            results.append(measured(run))
            print(run.folder.relative_to(HERE), results[-1]["errors"], flush=True)
    RESULTS.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
