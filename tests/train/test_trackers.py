"""Copies of the log for TensorBoard and for Weights & Biases; here with packages that note what they are given."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import small

from uip.train.loop import train
from uip.train.metrics import read_log
from uip.train.trackers import numbers


class Run:
    """A run of Weights & Biases, as far as uip uses it."""

    def __init__(self, **options: Any) -> None:
        self.options, self.lines, self.finished = options, [], False

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs of a package wandb that keeps them here."""
    found: list[Run] = []
    module = ModuleType("wandb")
    module.init = lambda **options: found.append(Run(**options)) or found[-1]  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "wandb", module)
    small.without_figures(monkeypatch)
    return found


def test_a_resumed_run_is_the_same_run(tmp_path: Path, runs: list[Run]) -> None:
    file = small.write_frames(tmp_path / "four.xyz", 4)
    train(small.config(tmp_path / "copper", file, run={"epochs": 1, "wandb": "metals"}))
    train(small.config(tmp_path / "copper", file, run={"epochs": 2, "wandb": "metals"}), resume=True)
    first, second = runs
    assert first.options["id"] == second.options["id"]
    assert (first.options["project"], first.options["name"]) == ("metals", "copper")
    assert first.options["config"]["run"]["epochs"] == 1
    assert first.finished
    lines = read_log(tmp_path / "copper" / "log.jsonl")
    sent = [(line["step"], numbers(line)) for line in lines]
    assert first.lines + second.lines == sent
    assert "validation/forces_by_element/Si" in sent[1][1]


@pytest.mark.parametrize(
    ("setting", "package"), [({"wandb": "metals"}, "wandb"), ({"tensorboard": True}, "tensorboard")]
)
def test_a_package_that_is_not_installed(
    setting: dict[str, Any], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    file = small.write_frames(tmp_path / "four.xyz", 4)
    with pytest.raises(ValueError, match=f"needs the package {package}; run 'pip install {package}'"):
        train(small.config(tmp_path / "run", file, run={"epochs": 1, **setting}))
