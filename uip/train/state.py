"""The state of a run, saved to and restored from last.ckpt."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import uip
from uip.checkpoint import read_training, save_checkpoint
from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.train.config import ADJUSTABLE, CHANGEABLE, PATHS, Changes, TrainConfig, changes, is_path
from uip.train.lora import LowRank, low_rank_matrices
from uip.train.muon import Muon
from uip.train.optim import EMA, make_optimizer, select_trainable


@dataclass
class State:
    """State of a run."""

    model: Potential | Heads
    parameters: list[tuple[str, nn.Parameter]]
    optimizer: torch.optim.AdamW | Muon
    ema: EMA | None
    low_rank: LowRank | None = None
    """LoRA; its factors are among the parameters."""
    data: str = ""
    """Hash of the training and validation structures."""
    shifts: tuple[Tensor, ...] = ()
    """Of each data set, if there are several: what is added to its energy labels, (Z,) eV per atom of each element."""
    epoch: int = 0
    batch: int = 0
    """Number of batches done in this epoch."""
    step: int = 0
    best: float = float("inf")
    """Lowest validation loss so far."""
    stale: int = 0
    """Number of epochs since the validation loss was lowest."""
    reductions: int = 0
    """Number of reductions of the learning rate by the schedule "plateau"."""
    typical: float = 0.0
    """Recent average of the training loss."""
    seconds: float = 0.0
    """Training time, over all resumed parts of the run."""
    lines: int = 0
    """Number of lines in the log."""
    kept: list[tuple[float, int]] = field(default_factory=list)
    """Validation loss and number of the best epochs, see `RunConfig.keep_best`."""


COUNTERS = ("epoch", "batch", "step", "best", "stale", "reductions", "typical", "seconds", "lines", "kept")


def initial_state(config: TrainConfig, model: Potential | Heads) -> State:
    """The state before the first step."""
    choice = config.model
    parameters = select_trainable(model.train(), choice.trained)
    low_rank = None
    if choice.lora_rank:
        matrices = low_rank_matrices(model, choice.lora_layers, choice.trained, choice.lora_rank)
        low_rank = LowRank(matrices, choice.lora_rank, config.run.seed)
        parameters += low_rank.parameters()
    ema = EMA(model, config.optim.ema) if config.optim.ema else None
    return State(model, parameters, make_optimizer(model, parameters, config.optim), ema, low_rank)


def save_state(state: State, config: TrainConfig, path: Path) -> None:
    """Write the complete state of a run, with the version of the code."""
    training: dict[str, Any] = {
        "config": config.values(),
        "version": uip.__version__,
        "revision": revision(),
        "optimizer": state.optimizer.state_dict(),
        "data": state.data,
        "shifts": list(state.shifts),
        "lora": None if state.low_rank is None else state.low_rank.state(),
        "average": None if state.ema is None else state.ema.state(),
        "counters": {name: getattr(state, name) for name in COUNTERS},
    }
    save_checkpoint(state.model, path, training=training)


def resume_from(state: State, config: TrainConfig, path: Path) -> Changes:
    """Restore `state` from the checkpoint `path`; returns the settings that were adjusted since it was written.

    Raises:
        ValueError: the checkpoint was written with other structures, or with settings not in `ADJUSTABLE`.
    """
    saved = read_training(path)
    check_data(state.data, saved.get("data"), path)
    changed = check_settings(config, saved, path)
    state.model.load_state_dict(saved["state"])
    state.optimizer.load_state_dict(saved["optimizer"])
    if state.low_rank is not None:
        state.low_rank.load(saved["lora"])
    state.shifts = tuple(saved.get("shifts", ()))
    if state.ema is not None:
        state.ema.load(saved["average"])
    for name in COUNTERS:
        # checkpoints of version 0.1 lack some
        setattr(state, name, saved["counters"].get(name, getattr(state, name)))
    return changed


def check_settings(config: TrainConfig, saved: dict[str, Any], path: Path) -> Changes:
    """The settings that were adjusted since the checkpoint `path`, with the content `saved`, was written.

    Raises:
        ValueError: others, which are not in `ADJUSTABLE`, changed too.
    """
    # "recipe": the name of this entry in checkpoints of version 0.1
    changed = changes(config, saved["config"] if "config" in saved else saved["recipe"])
    if saved.get("data"):  # the same structures, from any file
        changed = {name: values for name, values in changed.items() if not is_path(name)}
    different = [name for name in changed if name not in ADJUSTABLE]
    if different:
        raise ValueError(
            f"a run must resume with the settings it was started with, but {', '.join(different)} changed since {path} "
            f"was written; only {', '.join(sorted(ADJUSTABLE | CHANGEABLE | PATHS))} may change; change them back, or "
            "start a new run with 'model.init_from' set to that file"
        )
    return changed


def check_data(present: str, saved: str | None, path: Path) -> None:
    """Raises ValueError if a run was started with other structures. Checkpoints of version 0.1 have no hash."""
    if saved and saved != present:
        raise ValueError(
            f"a run must resume with the structures it was started with, but those of 'data.train' or "
            f"'data.validation' changed since {path} was written; restore the files (a file and "
            "the data store built from it count as different), or start a new run with 'model.init_from' set to that "
            "file"
        )


def revision(folder: Path = Path(__file__).parent) -> str:
    """The git revision of the code in `folder`, with a "+" if it has local changes; empty for an installed copy."""
    if not (folder.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a folder that git does not trust
        return ""


@contextmanager
def ema_weights(state: State) -> Iterator[Potential | Heads]:
    """Within the context, the model has its EMA weights, if there are any."""
    if state.ema is None:
        yield state.model
        return
    present = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    set_weights(state.model, state.ema.weights)
    try:
        yield state.model
    finally:
        set_weights(state.model, present)


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a model."""
    for name, value in model.named_parameters():
        value.copy_(weights[name])


def weights_digest(model: nn.Module) -> str:
    """Hash of all weights and buffers, to compare ranks."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
