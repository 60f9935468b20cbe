"""Errors of validation: mean absolute and root mean square, in the units of the log."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch

from uip.models.readout import evaluate
from uip.train.distributed import Ranks
from uip.train.loop import train
from uip.train.metrics import read_log
from uip.train.setup import initial_model, open_data
from uip.train.state import initial_state
from uip.train.validation import validate
from uip.units import EV_PER_A3_TO_GPA


def test_errors_of_validation(tmp_path: Path) -> None:
    """Over several micro-batches, of structures of which one has no stress."""
    file = small.write_frames(tmp_path / "three.xyz", 3)
    config = small.config(tmp_path, file, data={"max_cost": 1.0}, optim={"ema": 0.0})
    model = initial_model(config)
    _, data = open_data(config, model)
    state = initial_state(config, model.double())
    found = validate(config, state.model, data, Ranks())
    sample = data.batch(range(3))
    outputs = evaluate(model, sample.graph)
    energy = (outputs.energy - sample.targets.energy) / sample.graph.atoms_per_graph
    stress = (outputs.stress - sample.targets.stress)[:2] * EV_PER_A3_TO_GPA
    forces = outputs.forces - sample.targets.forces
    for name, error, unit in (("energy", energy, 1e3), ("forces", forces, 1e3), ("stress", stress, 1.0)):
        assert found[name] == pytest.approx(unit * float(error.abs().mean()), rel=1e-9), name
        assert found[f"{name}_rmse"] == pytest.approx(unit * float(torch.square(error).mean().sqrt()), rel=1e-9), name
    assert found["magmoms"] is None
    assert found["magmoms_rmse"] is None


def test_the_best_potential_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end, not when the time is over; its errors are those of its own validation, on the same file."""
    small.without_figures(monkeypatch)
    file = small.write_frames(tmp_path / "three.xyz", 3)
    tables = {"data": {"test": str(file)}, "optim": {"learning_rate": 1.0}}
    messages: list[str] = []
    train(small.config(tmp_path / "run", file, **tables, run={"epochs": 2, "hours": 1e-9}), report=messages.append)
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["kind"] == "validation"
    train(small.config(tmp_path / "run", file, **tables, run={"epochs": 2}), resume=True, report=messages.append)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert lines[-1]["kind"] == "test"
    best = min((line for line in lines if line["kind"] == "validation"), key=lambda line: line["loss"])
    for name in ("loss", "energy", "forces", "stress", "forces_rmse"):
        assert lines[-1][name] == pytest.approx(best[name], rel=1e-5), name  # by kernels for inference
    assert messages[-1].startswith("test: energy ")
