"""Errors of validation: mean absolute and root mean square, in the units of the log."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch
from ase.data import atomic_numbers

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


def test_errors_by_element(tmp_path: Path) -> None:
    file = small.write_frames(tmp_path / "four.xyz", 4)
    config = small.config(tmp_path, file, data={"max_cost": 1.0}, optim={"ema": 0.0})
    model = initial_model(config)
    _, data = open_data(config, model)
    found = validate(config, initial_state(config, model.double()).model, data, Ranks())
    sample = data.batch(range(4))
    numbers, outputs = sample.graph.atomic_numbers, evaluate(model, sample.graph)
    forces = 1e3 * (outputs.forces - sample.targets.forces).abs()
    magmoms = (outputs.magmoms - sample.targets.magmoms).abs()
    assert set(found["magmoms_by_element"]) == {"Ni", "O"}  # oxygen: of NiO, not of water
    for symbol, number in {"Si": 14, "O": 8, "Ni": 28, "H": 1}.items():
        chosen = numbers == number
        assert found["forces_by_element"][symbol] == pytest.approx(float(forces[chosen].mean()), rel=1e-9)
        if symbol in found["magmoms_by_element"]:
            wanted = magmoms[chosen].nanmean()
            assert found["magmoms_by_element"][symbol] == pytest.approx(float(wanted), rel=1e-9)
    atoms = {symbol: int((numbers == atomic_numbers[symbol]).sum()) for symbol in found["forces_by_element"]}
    mean = sum(found["forces_by_element"][symbol] * many for symbol, many in atoms.items()) / len(numbers)
    assert mean == pytest.approx(found["forces"], rel=1e-9)


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
