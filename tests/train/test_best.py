"""Checkpoints of the best epochs."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch

from uip.checkpoint import load_model
from uip.train.loop import train
from uip.train.metrics import read_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "four.xyz", 4)


def test_the_best_epochs_are_kept_over_a_resume(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses that go down and up again: a large learning rate. Two of four are kept, then one of five."""
    small.without_figures(monkeypatch)
    for epochs, count in ((4, 2), (5, 1)):
        optim = {"learning_rate": 0.5, "schedule": "constant", "ema": 0.0}
        run = {"epochs": epochs, "keep_best": count, "max_jump": 0.0}
        train(small.config(tmp_path / "run", data, optim=optim, run=run), resume=epochs == 5)
        lines = read_log(tmp_path / "run" / "log.jsonl")
        losses = [line["loss"] for line in lines if line["kind"] == "validation"]
        assert len(losses) == epochs
        assert losses != sorted(losses, reverse=True)
        ranked = sorted(range(epochs), key=lambda epoch: losses[epoch])
        names = [f"epoch_{epoch + 1:04d}.ckpt" for epoch in ranked[:count]]
        assert sorted(path.name for path in (tmp_path / "run").glob("epoch_*")) == sorted(names)
        best, same = (load_model(tmp_path / "run" / name).state_dict() for name in ("best.ckpt", names[0]))
        assert all(torch.equal(value, same[name]) for name, value in best.items())


def test_a_negative_number_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'run\.keep_best' must not be negative, got -1"):
        small.config(tmp_path, data, run={"keep_best": -1})
    with pytest.raises(ValueError, match=r"'data\.workers' must not be negative, got -2"):
        small.config(tmp_path, data, data={"workers": -2})
