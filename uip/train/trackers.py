"""Copies of the log for TensorBoard and for Weights & Biases, each an optional package."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes each line of the log."""

    def write(self, line: Mapping[str, Any]) -> None:
        """The numbers of one line."""

    def close(self) -> None:
        """At the end of the run."""


def trackers(run: Any, folder: Path, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """Those that `run`, a `uip.train.config.RunConfig`, asks for.

    Args:
        step: of the last line that is kept; lines after it are written again.
    """
    found: list[Tracker] = []
    if run.tensorboard:
        found.append(TensorBoard(folder, step))
    if run.wandb:
        found.append(WeightsAndBiases(run.wandb, folder, settings))
    return found


def check_packages(run: Any) -> None:
    """Raises ValueError if a package that `run`, a `uip.train.config.RunConfig`, asks for is not installed."""
    for wanted, module, package in (
        (run.tensorboard, "torch.utils.tensorboard", "tensorboard"),
        (run.wandb, "wandb", "wandb"),
    ):
        if not wanted:
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"'run.{package}' needs the package {package}; run 'pip install {package}'") from error


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Names such as "validation/forces", and "validation/forces_by_element/Si"."""
    found = {f"{line['kind']}/{name}": value for name, value in line.items() if isinstance(value, float)}
    for name, values in line.items():
        if isinstance(values, dict):
            found |= {
                f"{line['kind']}/{name}/{key}": value for key, value in values.items() if isinstance(value, float)
            }
    return found


class TensorBoard:
    """Files in `folder`/tensorboard."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        for name, value in numbers(line).items():
            self.writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the project, named like the run's folder, which keeps its id: a resumed run continues it.

    Steps that a resumed run repeats are there already, and the service keeps the first values.
    """

    def __init__(self, project: str, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        path = folder / "wandb_id"
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:16])
        self.run: Any = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=path.read_text(),
            resume="allow",
            dir=str(folder),
            config=dict(settings),
        )

    def write(self, line: Mapping[str, Any]) -> None:
        self.run.log(numbers(line), step=line["step"])

    def close(self) -> None:
        self.run.finish()
