"""The scripts of examples/long_range: equal budgets, and numbers that follow from predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import figures
import measure
import numpy as np
import pairs
import pytest
import train

from uip.train.config import fixed_settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's configs, and no data or finished runs."""
    for path in train.HERE.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    for name in ("random_charges", "pairs"):
        (tmp_path / f"{name}_train.xyz").write_text("1\n\nNa 0 0 0\n" * train.STRUCTURES[name])
    monkeypatch.setattr(train, "HERE", tmp_path)


def test_runs_differ_in_what_they_compare_only() -> None:
    """And all runs of a set have the same number of steps."""
    everything = list(train.runs())
    assert len({run.folder for run in everything}) == len(everything)
    for data in train.STRUCTURES:
        runs = [run for run in everything if run.data == data]
        settings = [fixed_settings(run.config().values()) for run in runs]
        changing = {key for one in settings for key in one if one[key] != settings[0][key]}
        assert changing <= {"model.architecture", "data.train", "run.seed", "run.epochs"}
        assert len({one["run.epochs"] * run.structures for run, one in zip(runs, settings, strict=True)}) == 1


def test_fewer_structures_are_the_first_ones() -> None:
    run = train.Run("random_charges", "local", 125)
    (path,) = run.config().data.train
    assert Path(path).read_text().count("Na") == 125


def test_a_run_is_finished_with_its_last_epoch() -> None:
    run = train.Run("pairs", "local", 900)
    lines = [json.dumps({"kind": "validation", "step": step}) + "\n" for step in range(run.config().run.epochs)]
    run.folder.mkdir(parents=True)
    for count in (0, len(lines) - 1, len(lines)):
        (run.folder / "log.jsonl").write_text("".join(lines[:count]))
        assert run.is_finished == (count == len(lines))


def test_errors_by_distance() -> None:
    """Predictions 10 meV/A too large for every component, 20 beyond 10 A; energies 0.3 eV too large for two atoms."""
    rng, items = np.random.default_rng(0), []
    for distance in (3.5, 7.5, 11.0, 22.0):
        atoms = pairs.pair(("Na", "Na"), distance, rng)
        shift = 0.01 if distance < 10.0 else 0.02
        items.append(measure.Predicted(atoms, atoms.get_potential_energy() + 0.3, atoms.get_forces() + shift))
    found = measure.errors(items)
    assert (found["energy"], found["forces"]) == pytest.approx((150.0, 15.0))
    ranges = measure.by_distance(items)["ranges"]
    errors = [ranges[name]["Na-Na"]["forces"] for name in measure.RANGES]
    assert errors == pytest.approx([10.0, 10.0, 20.0])
    assert ranges["beyond training"]["all"]["size"] < ranges["beyond it, trained"]["all"]["size"]


def result_of(run: train.Run, error: float) -> figures.Result:
    """A result as in the file, with one error everywhere."""
    one = {"energy": error, "forces": error, "size": 50.0}
    return {
        **asdict(run),
        "errors": dict.fromkeys(measure.TESTS[run.data], one),
        "distance": {
            "bins": [{"from": 3.0, "to": 4.0, **one}, {"from": 4.0, "to": 5.0, **one}],
            "ranges": {name: {"all": one} for name in measure.RANGES},
        },
        "parity": {"label": [0.0, 1.0], "predicted": [0.1, 0.9]},
    }


def test_figures_and_tables_follow_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train.Run("pairs", "local", 900)
    results = [result_of(run, 100.0), result_of(replace(run, seed=1), 140.0)]
    results += [result_of(train.Run("random_charges", "attention", count), 77.0) for count in (500, 125)]
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "long_range.json")
    figures.RESULTS.write_text(json.dumps(results))
    figures.main()
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"long_range{name}.png" for name in ("", "_parity", "_learning")
    }
    printed = capsys.readouterr().out
    assert "| local | 120 +- 20 | 120 +- 20 | 120 +- 20 |" in printed
    assert "| attention | 77 | 77 | 77 | 77 |" in printed
