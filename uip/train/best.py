"""The best potentials of a run: best.ckpt, and with `run.keep_best` one checkpoint for each of the best epochs."""

from __future__ import annotations

from pathlib import Path

from uip.checkpoint import save_checkpoint
from uip.train.config import TrainConfig
from uip.train.setup import explain_write_errors
from uip.train.state import State, ema_weights

DISK_FULL_ADVICE = "free disk space and continue with --resume: earlier checkpoints are intact"
"""Advice in the message if a checkpoint cannot be written."""


def save_best(config: TrainConfig, state: State, loss: float, *, write: bool) -> list[Path]:
    """Write best.ckpt if the validation loss is the lowest so far, and the checkpoint of this epoch if it is one of the
    `run.keep_best` lowest; on all ranks, of which one writes.

    Returns:
        Checkpoints of epochs that are no longer among the best; to remove when last.ckpt is written.
    """
    folder = Path(config.run.folder)
    paths = [folder / "best.ckpt"] if loss < state.best else []
    known = [item for item in state.kept if item[1] != state.epoch]  # a resumed run repeats an epoch
    ranked = sorted([*known, (loss, state.epoch)])
    state.kept = ranked[: config.run.keep_best]
    if (loss, state.epoch) in state.kept:
        paths.append(epoch_path(folder, state.epoch))
    if write and paths:
        with ema_weights(state) as model, explain_write_errors(folder, DISK_FULL_ADVICE):
            for path in paths:
                save_checkpoint(model, path)
    return [epoch_path(folder, epoch) for _, epoch in ranked[config.run.keep_best :]] if write else []


def epoch_path(folder: Path, epoch: int) -> Path:
    """The checkpoint of an epoch; users count from 1."""
    return folder / f"epoch_{epoch + 1:04d}.ckpt"
