"""Settings from the command line, the record of a run in its folder, and early stopping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small
import torch

import uip.train.loop
from uip.checkpoint import read_training
from uip.train.__main__ import main
from uip.train.config import read_config
from uip.train.distributed import Ranks
from uip.train.loop import train
from uip.train.overrides import with_overrides
from uip.train.record import write_record
from uip.train.setup import initial_model, open_data
from uip.train.state import weights_digest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "four.xyz", 4)


def test_overrides_are_toml_or_text() -> None:
    values = {"optim": {"learning_rate": 1e-2, "clip": 1.0}, "data": {"train": "a.xyz"}}
    given = (
        ("optim.learning_rate=1e-3", ("optim", "learning_rate"), 1e-3),
        ("run.folder=runs/b", ("run", "folder"), "runs/b"),
        ("run.tf32 = true", ("run", "tf32"), True),
        ('data.train=["b.xyz", "c.xyz"]', ("data", "train"), ["b.xyz", "c.xyz"]),
    )
    found = with_overrides(values, [text for text, _, _ in given])
    for _, (table, key), value in given:
        assert found[table][key] == value
    assert found["optim"]["clip"] == 1.0
    assert values == {"optim": {"learning_rate": 1e-2, "clip": 1.0}, "data": {"train": "a.xyz"}}
    deep = with_overrides(values, ["model.architecture.channels=8", "model.architecture.num_layers=3"])
    assert deep["model"] == {"architecture": {"channels": 8, "num_layers": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.learning_rate", r"--set must be like optim\.learning_rate=1e-3, got 'optim\.learning_rate'"),
        ("epochs=3", r"--set must be like .*, got 'epochs=3'"),
        ("data.train.x=3", r"--set data\.train\.x: 'train' must be a table, but is 'a\.xyz'"),
        ("optim.learning_rte=1.0", r"unknown key 'optim\.learning_rte'; did you mean 'learning_rate'"),
        ("optim.learning_rate=fast", r"'optim\.learning_rate' must be float, got 'fast'"),
    ],
)
def test_overrides_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('data.train = "a.xyz"')
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "run.toml", [text])


def test_a_run_keeps_its_settings_and_its_split(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were used, with what the command line changed; the settings are the same from any folder."""
    changes = {"validation": [], "validation_fraction": 0.4, "cache": ""}
    config = small.config(Path("run"), Path(data.name), data=changes, run={"epochs": 1})
    (data.parent / "run.toml").write_text(small.toml(config.values()))
    small.without_figures(monkeypatch)
    monkeypatch.chdir(data.parent)
    assert main(["run.toml", "--set", "optim.clip=3.5", "--set", f"run.folder={tmp_path}/first"]) == 0
    monkeypatch.chdir(tmp_path)
    kept = read_config(tmp_path / "first" / "settings.toml")
    assert (kept.optim.clip, kept.run.folder) == (3.5, str(tmp_path / "first"))
    assert kept.model == config.model
    training, validation = open_data(kept, initial_model(kept))
    (file,) = json.loads((tmp_path / "first" / "split.json").read_text())["files"]
    assert file == {"file": str(data.resolve()), "structures": 4, "validation": validation.chosen.tolist()}
    assert sorted([*training.chosen, *validation.chosen]) == list(range(4))


def test_validation_files_are_kept(data: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path, data)
    write_record(config, open_data(config, initial_model(config))[1])
    assert json.loads((tmp_path / "split.json").read_text()) == {"validation_files": [str(data.resolve())]}


def test_early_stopping(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of validation is lowest in the second epoch; the run stops after the fourth, also when resumed."""
    losses = iter([3.0, 2.0, 2.5, 2.0])
    none = dict.fromkeys(("energy", "forces", "stress", "magmoms"))
    monkeypatch.setattr(uip.train.loop, "validate", lambda *_: {"kind": "validation", "loss": next(losses), **none})
    small.without_figures(monkeypatch)
    messages: list[str] = []
    run = {"epochs": 9, "patience": 2}
    train(small.config(tmp_path / "run", data, run=run), report=messages.append)
    assert messages[-1] == "stopped early: no lower validation loss in 2 epochs"
    counters = read_training(tmp_path / "run" / "last.ckpt")["counters"]
    assert (counters["epoch"], counters["best"], counters["stale"]) == (4, 2.0, 2)
    train(small.config(tmp_path / "run", data, run=run), resume=True, report=messages.append)
    assert messages[-1] == "stopped early: no lower validation loss in 2 epochs"


def test_weights_are_compared_between_ranks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    compared: dict[str, str] = {}
    monkeypatch.setattr(Ranks, "check_same", lambda self, what, text: compared.update({what: text}))
    train(small.config(tmp_path / "run", data, run={"epochs": 1}))
    assert len(compared["weights"]) == 16
    model = torch.nn.Linear(2, 2)
    before = weights_digest(model)
    with torch.no_grad():
        model.bias[1] += 1e-6
    assert weights_digest(model) != before
