"""What validation decides: checkpoints of the best epochs, and the learning rate on a plateau."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch

from uip.checkpoint import load_model
from uip.train.loop import train
from uip.train.metrics import read_log
from uip.train.optim import OptimConfig, learning_rate


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "four.xyz", 4)


def test_epochs_are_kept_and_the_rate_is_reduced(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses that go down and up again: a large learning rate. Two of three epochs are kept, then one of five."""
    small.without_figures(monkeypatch)
    optim = {"learning_rate": 0.3, "ema": 0.0, "schedule": "plateau", "plateau_epochs": 1, "plateau_factor": 0.1}
    optim["final_fraction"] = 0.02
    for epochs, count in ((3, 2), (5, 1)):
        run = {"epochs": epochs, "keep_best": count, "max_jump": 0.0}
        train(small.config(tmp_path / "run", data, optim=optim, run=run), resume=epochs == 5)
        lines = read_log(tmp_path / "run" / "log.jsonl")
        losses = [line["loss"] for line in lines if line["kind"] == "validation"]
        ranked = sorted(range(epochs), key=lambda epoch: losses[epoch])
        names = [f"epoch_{epoch + 1:04d}.ckpt" for epoch in ranked[:count]]
        assert sorted(path.name for path in (tmp_path / "run").glob("epoch_*")) == sorted(names)
        best, same = (load_model(tmp_path / "run" / name).state_dict() for name in ("best.ckpt", names[0]))
        assert all(torch.equal(value, same[name]) for name, value in best.items())
    reductions, expected = 0, []
    for epoch in range(5):
        expected.append(0.3 * max(0.1**reductions, 0.02))
        reductions += epoch > 0 and losses[epoch] >= min(losses[:epoch])
    assert [line["rate"] for line in lines if line["kind"] == "train"] == pytest.approx(expected)
    assert 0 < reductions < 4


def test_a_negative_number_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'run\.keep_best' must not be negative, got -1"):
        small.config(tmp_path, data, run={"keep_best": -1})
    with pytest.raises(ValueError, match=r"'data\.workers' must not be negative, got -2"):
        small.config(tmp_path, data, data={"workers": -2})


def test_plateaus(data: Path, tmp_path: Path) -> None:
    config = OptimConfig(learning_rate=1.0, schedule="plateau", plateau_factor=0.5, final_fraction=0.1)
    assert [learning_rate(config, 50, 100, 16, count) for count in (0, 1, 2, 9)] == [1.0, 0.5, 0.25, 0.1]
    with pytest.raises(ValueError, match=r"'optim\.plateau_epochs' must be at least 1, got 0"):
        small.config(tmp_path, data, optim={"plateau_epochs": 0})
    with pytest.raises(ValueError, match=r"'optim\.plateau_factor' must lie between 0 and 1, got 1\.0"):
        small.config(tmp_path, data, optim={"plateau_factor": 1.0})
