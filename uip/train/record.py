"""What a run was started with, in its folder: settings.toml and split.json.

settings.toml    all settings with their defaults; a new run can be started with it
split.json       validation structures of each training file, by number; all others are training structures
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from uip.data.dataset import Dataset
from uip.train.config import TrainConfig
from uip.train.data_sets import MAIN
from uip.train.template import settings_text


def write_record(config: TrainConfig, validation: Dataset) -> None:
    """Write both files to the run's folder."""
    folder = Path(config.run.folder)
    (folder / "settings.toml").write_text(settings_text(with_absolute_paths(config)), encoding="utf-8")
    parts = {name: _split(config, validation, number) for number, name in enumerate(config.data.by_name)}
    split = {**parts.pop(MAIN), **({"sets": parts} if parts else {})}
    (folder / "split.json").write_text(json.dumps(split, indent=1), encoding="utf-8")


def _split(config: TrainConfig, validation: Dataset, number: int) -> dict[str, Any]:
    """Of one data set: validation files; or for each training file, the number of structures, and the numbers of those
    for validation. Others are for training, or, with `structures`, not used."""
    choice = list(config.data.by_name.values())[number]
    if choice.validation:
        return {"validation_files": absolute(choice.validation)}
    data = validation.of_set(number)
    files, begin = [], 0
    for path, store in zip(absolute(choice.train), data.stores, strict=True):
        mine = data.chosen[(data.chosen >= begin) & (data.chosen < begin + len(store))] - begin
        files.append({"file": path, "structures": len(store), "validation": np.sort(mine).tolist()})
        begin += len(store)
    return {"files": files}


def absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths that do not depend on the working directory."""
    return tuple(str(Path(path).resolve()) for path in paths)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same settings for any working directory."""
    data, model, run = config.data, config.model, config.run
    start = str(Path(model.init_from).resolve()) if Path(model.init_from).is_file() else model.init_from
    return replace(
        config,
        data=replace(
            data,
            train=absolute(data.train),
            validation=absolute(data.validation),
            test=absolute(data.test),
            sets={
                name: replace(
                    choice,
                    train=absolute(choice.train),
                    validation=absolute(choice.validation),
                    test=absolute(choice.test),
                )
                for name, choice in data.sets.items()
            },
            cache=str(Path(data.cache).resolve()) if data.cache else "",
        ),
        model=replace(model, init_from=start),
        run=replace(run, folder=str(Path(run.folder).resolve())),
    )
