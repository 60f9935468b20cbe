"""The training loop.

    python -m uip.train run.toml                                   # one process
    python -m uip.train run.toml --resume                          # continue from the last checkpoint
    torchrun --nproc-per-node 4 -m uip.train run.toml              # four processes, each computes a part of every step

All settings with their defaults: `uip/train/config.py`. Files in the run's folder:

    last.ckpt     complete state of the run, for `--resume`
    best.ckpt     the potential with the lowest validation loss: for `uip eval`, `uip export`, `Calculator`
    epoch_0012.ckpt, ...         those of the best epochs, with `run.keep_best` (`uip/train/best.py`)
    log.jsonl     losses and errors (`uip/train/metrics.py`); curves.png: the same as a figure
    settings.toml, split.json    what the run was started with (`uip/train/record.py`)

Entry point: `train`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from uip.checkpoint import load_heads, parse_dtype, save_checkpoint
from uip.data.augment import random_rotation, rotated
from uip.data.dataset import Dataset
from uip.data.prefetch import prefetch
from uip.data.sampler import assign_to_ranks, cost_model, epoch_batches
from uip.data.samples import Sample
from uip.schema import Floats, Integers
from uip.train.best import DISK_FULL_ADVICE, save_best
from uip.train.config import Changes, TrainConfig, fixed_settings, is_path
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum
from uip.train.heads import portions
from uip.train.metrics import Line, Log
from uip.train.record import write_record
from uip.train.references import set_references
from uip.train.scale import set_scale
from uip.train.setup import (
    data_warnings,
    explain_write_errors,
    initial_model,
    open_data,
    open_test,
    prepare_folder,
    run_device,
    set_coverage,
)
from uip.train.signals import StoppedError, StopRequest, stop_requests
from uip.train.state import State, ema_weights, initial_state, resume_from, save_state, weights_digest
from uip.train.step import Plan, gradient_step
from uip.train.trackers import check_packages, trackers
from uip.train.validation import format_errors, validate

StepCallback = Callable[[int, int, int], None]
"""Called after each step with: steps done, total number of steps, number of structures in the step."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    report: Callable[[str], None] = lambda text: None,
    on_step: StepCallback = lambda done, total, structures: None,
) -> Path:
    """Train with the settings `config`; returns the path of the best potential.

    Args:
        resume: continue from last.ckpt if it exists.
        report: called with messages for the user: sizes at the start, errors after each epoch.
        on_step: called after each step.

    Raises:
        ValueError: an error in config or data.
        FloatingPointError: the loss is not finite or has diverged; the structures of that step are saved.
        StoppedError: after SIGINT or SIGTERM, with a checkpoint of the last step.
    """
    device = run_device(config.run)
    ranks = Ranks.join(device.type)
    folder = Path(config.run.folder)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    torch.set_float32_matmul_precision("high" if config.run.tf32 else "highest")
    torch.manual_seed(config.run.seed)
    check_packages(config.run)
    model = initial_model(config)
    prepare_folder(folder, ranks, resume=resume)
    training, validation = open_data(config, model)
    test = open_test(config, model)
    set_coverage(config, model, training)
    going_on = resume and (folder / "last.ckpt").exists()
    shifts: tuple[Tensor, ...] = ()
    if not going_on:
        shifts = set_references(config, model, training, ranks)
        set_scale(config, model, training)
    state = initial_state(config, model.to(device=device, dtype=parse_dtype(config.run.dtype)))
    state.data, state.shifts = training.digest() + validation.digest(), shifts
    changed: Changes = {}
    if going_on:
        changed = resume_from(state, config, folder / "last.ckpt")
    elif resume:
        report(f"no checkpoint in {folder}: a new run starts")
    training, validation, test = (data.shifted(state.shifts) for data in (training, validation, test))
    check_ranks(config, state, ranks)
    if ranks.is_first:
        with explain_write_errors(folder, DISK_FULL_ADVICE):
            write_record(config, validation)
    report_start(config, state, training, validation, test, report)
    track = partial(trackers, config.run, folder, config.values())
    log = Log(folder, keep=state.lines, track=track) if ranks.is_first else None
    log_changes(log, state, changed, report)
    try:
        with stop_requests() as stop:
            run_epochs(config, state, training, validation, ranks, log, report, on_step, stop)
            finish_run(config, state, test, ranks, log, report)
    finally:
        if log is not None:
            log.close()
        ranks.leave()
    return folder / "best.ckpt"


def check_ranks(config: TrainConfig, state: State, ranks: Ranks) -> None:
    """Raises RuntimeError, on every rank, if ranks have different settings, structures or weights."""
    # paths may differ between machines; the contents of files are compared
    same = {name: value for name, value in fixed_settings(config.values()).items() if not is_path(name)}
    ranks.check_same("settings", repr(same))
    ranks.check_same("data", state.data)
    ranks.check_same("weights", weights_digest(state.model))


def report_start(
    config: TrainConfig,
    state: State,
    training: Dataset,
    validation: Dataset,
    test: Dataset,
    report: Callable[[str], None],
) -> None:
    """Sizes, and warnings about the data."""
    report(
        f"{len(training)} training structures, {len(validation)} validation structures, "
        f"{sum(p.numel() for _, p in state.parameters)} trainable weights, starting at step {state.step}"
    )
    for warning in data_warnings(config, state.model, training, validation, test):
        report(f"warning: {warning}")


def run_epochs(
    config: TrainConfig,
    state: State,
    training: Dataset,
    validation: Dataset,
    ranks: Ranks,
    log: Log | None,
    report: Callable[[str], None],
    on_step: StepCallback,
    stop: StopRequest,
) -> None:
    """All remaining epochs, or as many as fit into `run.hours`."""
    costs = cost_model(state.model.name)(training)
    size, run = config.data.batch_size, config.run
    plan = Plan.of(config, training, costs)
    gradients = GradientSum([parameter for _, parameter in gradient_order(state)], ranks)
    began = time.monotonic() - state.seconds
    for epoch in range(state.epoch, run.epochs):
        if is_stale(config, state):
            report(f"stopped early: no lower validation loss in {state.stale} epochs")
            return
        state.epoch = epoch
        batches = epoch_batches(costs, size, run.seed, epoch, config.data.balance_for)
        left, late = batches[state.batch :], False
        for batch, samples in zip(left, rank_samples(config, state, training, left, costs, ranks), strict=True):
            line = gradient_step(config, state, samples, plan, gradients)
            state.step, state.batch = state.step + 1, state.batch + 1
            state.seconds = time.monotonic() - began
            write_log(log, state, {"kind": "train", **line})
            on_step(state.step, plan.num_steps, len(batch))
            stopped, late = ranks.any(bool(stop), is_late(config, state))
            if stopped:
                stop_run(config, state, ranks, stop)
            if run.checkpoint_steps and state.step % run.checkpoint_steps == 0:
                save_last(config, state, ranks)
            if late:
                report(f"stopped after {run.hours:g} hours at step {state.step} of {plan.num_steps}")
                break
        with ema_weights(state) as model:
            errors = validate(config, model, validation, ranks)
        finish_epoch(config, state, errors, ranks, log, whole=state.batch == len(batches))
        report(f"epoch {epoch + 1}/{run.epochs}: " + format_errors(errors))
        if late:
            return


def gradient_order(state: State) -> list[tuple[str, nn.Parameter]]:
    """Trained weights, those of single heads first, so that they are in the last bucket: it waits for the end of the
    step, since the last micro-batch has gradients of one head only."""
    return sorted(state.parameters, key=lambda item: item[0].partition(".")[0] not in state.model.heads)


def is_stale(config: TrainConfig, state: State) -> bool:
    """Whether early stopping ends the run."""
    return 0 < config.run.patience <= state.stale


def finish_run(
    config: TrainConfig, state: State, data: Dataset, ranks: Ranks, log: Log | None, report: Callable[[str], None]
) -> None:
    """Log the errors of best.ckpt on the test set, if there is one and the run has ended."""
    if not len(data) or (state.epoch < config.run.epochs and not is_stale(config, state)):
        return
    path, device = Path(config.run.folder) / "best.ckpt", str(state.model.device)
    errors = validate(config, load_heads(path, dtype=config.run.dtype, device=device), data, ranks)
    write_log(log, state, {**errors, "kind": "test"})
    report("test: " + format_errors(errors))


def rank_samples(
    config: TrainConfig, state: State, data: Dataset, batches: list[Integers], costs: Floats, ranks: Ranks
) -> Iterator[list[Sample]]:
    """This rank's part of each batch, in micro-batches; prepared while the model computes the previous batch."""
    device, real = state.model.device, parse_dtype(config.run.dtype)
    augment, workers = config.data.augments(state.model.name), config.data.workers
    pin = device.type == "cuda"

    def augmented(number: int, sample: Sample, epoch: int) -> Sample:
        return rotated(sample, random_rotation(config.run.seed, epoch, number)) if augment else sample

    def make(batch: Integers, epoch: int) -> list[Sample]:
        mine = batch[assign_to_ranks(costs[batch], ranks.size)[ranks.rank]]
        parts = portions(config, data, mine, costs, config.data.max_cost)
        samples = [data.batch(part, partial(augmented, epoch=epoch)).to(dtype=real) for part in parts]
        return pinned(samples) if pin and not workers else samples  # CUDA must not be used in a forked process

    made = prefetch((partial(make, batch, state.epoch) for batch in batches), workers)
    return map(pinned, made) if pin and workers else made


def pinned(samples: list[Sample]) -> list[Sample]:
    """Copies in pinned memory."""
    return [sample.pin() for sample in samples]


def finish_epoch(
    config: TrainConfig, state: State, errors: Line, ranks: Ranks, log: Log | None, *, whole: bool
) -> None:
    """Write the log, checkpoints of the best epochs, and last.ckpt. `whole`: the epoch is complete."""
    write_log(log, state, errors)
    dropped = save_best(config, state, errors["loss"], write=ranks.is_first)
    state.stale = 0 if errors["loss"] < state.best else state.stale + whole
    if whole and state.stale and state.stale % config.optim.plateau_epochs == 0:
        state.reductions += 1
    state.best = min(state.best, errors["loss"])
    if whole:
        state.epoch, state.batch = state.epoch + 1, 0
    save_last(config, state, ranks)
    for path in dropped:
        path.unlink(missing_ok=True)
    if log is not None:
        log.draw()


def log_changes(log: Log | None, state: State, changed: Changes, report: Callable[[str], None]) -> None:
    """Report and log the settings that were adjusted when the run was resumed."""
    for name, (old, new) in changed.items():
        report(f"{name} is {new!r} from step {state.step} on, it was {old!r}")
    if changed:
        write_log(log, state, {"kind": "settings", "changed": changed})


def write_log(log: Log | None, state: State, line: Line) -> None:
    """One line of the log; all ranks count it, rank 0 writes it."""
    state.lines += 1
    if log is not None:
        log.write({"step": state.step, "epoch": state.epoch, **line, "seconds": round(state.seconds, 3)})


def is_late(config: TrainConfig, state: State) -> bool:
    """Whether `run.hours` are over."""
    return config.run.hours > 0 and state.seconds > 3600 * config.run.hours


def stop_run(config: TrainConfig, state: State, ranks: Ranks, stop: StopRequest) -> None:
    """Write last.ckpt and raise `StoppedError`: a signal reached one of the ranks."""
    save_last(config, state, ranks)
    raise StoppedError(
        f"stopped by {stop.name or 'a signal of another rank'} after step {state.step}; the checkpoint "
        f"{Path(config.run.folder) / 'last.ckpt'} is complete, add --resume to continue",
        stop.name,
    )


def save_last(config: TrainConfig, state: State, ranks: Ranks) -> None:
    """Write last.ckpt; and best.ckpt, if the first epoch has not ended yet."""
    folder = Path(config.run.folder)
    if ranks.is_first:
        with explain_write_errors(folder, DISK_FULL_ADVICE):
            save_state(state, config, folder / "last.ckpt")
            if not (folder / "best.ckpt").exists():
                with ema_weights(state) as model:
                    save_checkpoint(model, folder / "best.ckpt")
    ranks.barrier()
