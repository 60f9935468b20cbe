"""`uip train --seeds N`: members of a committee differ, share the cache, and are neither repeated nor lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small
import torch

import uip.train.loop
from uip import Calculator
from uip.checkpoint import load_model, read_training
from uip.train.__main__ import main
from uip.train.config import make_config
from uip.train.members import is_finished, members


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "four.xyz", 4)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)


def config_file(folder: Path, data: Path, **tables: dict[str, Any]) -> str:
    """A run of two steps."""
    tables = {"data": {"batch_size": 2, "cache": ""}, "run": {"epochs": 1}, **tables}
    path = folder / "run.toml"
    path.write_text(small.toml(small.config(folder / "run", data, **tables).values()))
    return str(path)


def best(folder: Path, seed: int) -> Path:
    return folder / "run" / f"seed_{seed}" / "best.ckpt"


def test_members_differ_and_are_a_committee(data: Path, tmp_path: Path) -> None:
    assert main([config_file(tmp_path, data, run={"epochs": 1, "seed": 5}), "--seeds", "2"]) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"seed_5", "seed_6", "cache"}
    assert not (tmp_path / "run" / "seed_6" / "cache").exists()
    models = [load_model(best(tmp_path, seed)) for seed in (5, 6)]
    assert [model.card.name for model in models] == ["run-5", "run-6"]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert (weights[0] - weights[1]).abs().max() > 0.01
    atoms = small.frames(1)[0]
    atoms.calc = Calculator([best(tmp_path, 5), best(tmp_path, 6)])
    atoms.get_forces()
    assert atoms.calc.results["max_force_deviation"] > 0.0


def test_finished_members_are_not_repeated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped in its second member; resumed with one more, only what is missing is computed."""
    command = [config_file(tmp_path, data), "--resume", "--seeds"]
    original, calls = uip.train.loop.gradient_step, 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(uip.train.loop, "gradient_step", counted)
    with pytest.raises(KeyboardInterrupt):
        main([*command, "2"])
    before = best(tmp_path, 0).stat().st_mtime_ns
    assert not best(tmp_path, 1).exists()
    assert main([*command, "3"]) == 0
    assert calls == 4 + 2 + 2
    shown = capsys.readouterr().out
    assert f"model 1 of 3, {tmp_path / 'run' / 'seed_0'}: finished" in shown
    assert best(tmp_path, 0).stat().st_mtime_ns == before
    assert read_training(best(tmp_path, 2).with_name("last.ckpt"))["counters"]["step"] == 2


def test_longer_runs_continue_and_other_settings_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [config_file(tmp_path, data), "--seeds", "2"]
    assert main(command) == 0
    assert main([*command, "--resume", "--set", "run.epochs=2"]) == 0
    for seed in (0, 1):
        assert read_training(best(tmp_path, seed).with_name("last.ckpt"))["counters"]["epoch"] == 2
    assert main([*command, "--resume", "--set", "optim.ema=0.5"]) == 1
    assert "settings it was started with, but optim.ema changed" in capsys.readouterr().err
    other = small.write_frames(tmp_path / "other.xyz", 5)  # a member that is finished was trained on others
    assert main([*command, "--resume", "--set", "run.epochs=2", "--set", f'data.train="{other}"']) == 1
    assert "structures it was started with, but those of 'data.train'" in capsys.readouterr().err


def test_hours_end_a_member(data: Path, tmp_path: Path) -> None:
    file = config_file(tmp_path, data, run={"epochs": 50, "hours": 1e-7})
    assert main([file, "--seeds", "2"]) == 0
    tables = small.config(tmp_path / "run", data, data={"batch_size": 2, "cache": ""}, run={"epochs": 50}).values()
    late, unlimited = (
        members(make_config({**tables, "run": {**tables["run"], "hours": hours}}), 2, resume=True)
        for hours in (1e-7, 0.0)
    )
    assert [is_finished(member) for member in late] == [True, True]
    assert [is_finished(member) for member in unlimited] == [False, False]


def test_mistakes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [config_file(tmp_path, data), "--seeds"]
    assert main([*command, "1"]) == 1
    assert "--seeds must be at least 2, the members of a committee, got 1" in capsys.readouterr().err
    folder = tmp_path / "run" / "seed_1"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"of another run")
    assert main([*command, "2"]) == 1
    assert f"{folder} already contains a run; add --resume to continue the committee" in capsys.readouterr().err
    assert not (tmp_path / "run" / "seed_0").exists()
