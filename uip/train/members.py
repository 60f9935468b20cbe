"""The members of a committee: runs with the same settings and data whose seeds differ.

    uip train run.toml --seeds 4       # folders run/seed_0 .. run/seed_3, one cache in run/cache

`run.seed` decides the initial weights and the order of batches; the validation structures (`data.split_seed`) are the
same for all members.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from uip.checkpoint import read_training
from uip.train.config import TrainConfig
from uip.train.setup import initial_model, open_data
from uip.train.state import check_data, check_settings


def members(config: TrainConfig, count: int, *, resume: bool) -> list[TrainConfig]:
    """The configs of `count` runs with the seeds `run.seed`, `run.seed` + 1, ...

    Raises:
        ValueError: fewer than two, or without `resume` a folder that already contains a run.
    """
    if count < 2:
        raise ValueError(f"--seeds must be at least 2, the members of a committee, got {count}; leave it out for one")
    found = [_member(config, seed) for seed in range(config.run.seed, config.run.seed + count)]
    for member in found:
        if _last(member).exists() and not resume:
            raise ValueError(
                f"{member.run.folder} already contains a run; add --resume to continue the committee, or choose "
                "another 'run.folder'"
            )
    return found


def _member(config: TrainConfig, seed: int) -> TrainConfig:
    folder = Path(config.run.folder)
    name = config.model.name or folder.resolve().name
    return replace(
        config,
        data=replace(config.data, cache=config.data.cache or str(folder / "cache")),
        model=replace(config.model, name=f"{name}-{seed}"),
        run=replace(config.run, seed=seed, folder=str(folder / f"seed_{seed}")),
    )


def is_finished(config: TrainConfig) -> bool:
    """Whether a run has ended: after all epochs, by early stopping, or after `run.hours`.

    Raises:
        ValueError: the run had other settings or structures.
    """
    path, run = _last(config), config.run
    if not path.exists():
        return False
    saved = read_training(path)
    check_settings(config, saved, path)
    training, validation = open_data(config, initial_model(config))
    check_data(training.digest() + validation.digest(), saved.get("data"), path)
    counters = saved["counters"]
    is_stale = 0 < run.patience <= counters.get("stale", 0)
    is_late = run.hours > 0 and counters["seconds"] > 3600 * run.hours
    return bool(counters["epoch"] >= run.epochs or is_stale or is_late)


def _last(config: TrainConfig) -> Path:
    return Path(config.run.folder) / "last.ckpt"
