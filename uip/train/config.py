"""What a run is: one TOML file, read into dataclasses; every default stands here, beside what it means.

[model]  what is trained        [data]  on what        [loss]  towards what (uip/train/loss.py)
[optim]  how (uip/train/optim.py)     [run]   where, how long, with what numbers
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uip.config import existing_file, from_dict
from uip.train.loss import LossConfig
from uip.train.optim import OptimConfig
from uip.units import EV_PER_A3_TO_GPA

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    kind: str = ""
    """The architecture: "chgnet" or "allscaip"; empty: that of `init_from`, or chgnet."""
    init_from: str = ""
    """A published name or a checkpoint to fine-tune; empty: random weights."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Changes to the defaults of CHGNetConfig or AllScAIPConfig, or to `init_from` (there, `readout` alone)."""
    trainable: tuple[str, ...] = ("*",)
    """Which weights are trained: names as shell patterns, for example ["readout.*", "atom_updates.3.*"]."""
    name: str = ""
    """Of the new potential; empty: the name of the run's folder."""
    theory: str = ""
    """Level of theory of the labels; travels with the model."""
    licence: str = ""


STRESS_UNITS = {"eV/A^3": 1.0, "GPa": 1.0 / EV_PER_A3_TO_GPA, "kBar": 0.1 / EV_PER_A3_TO_GPA}
STRESS_SIGNS = {"tension": 1.0, "compression": -1.0}


@dataclass(frozen=True)
class DataConfig:
    """On what."""

    train: tuple[str, ...] = ()
    """Files of labelled structures, relative to the TOML file."""
    validation: tuple[str, ...] = ()
    """Files; empty: a part of the training files is set aside."""
    validation_fraction: float = 0.05
    split_by: str = ""
    """What stays together when a part is set aside: "formula", or the name of something that every structure carries
    (an info key of extxyz, "material" of MPtrj); empty: nothing."""
    split_seed: int = 0
    cache: str = ""
    """Folder for graphs; empty: `cache` in the run's folder."""
    reference: str = "fit"
    """Energies of elements: "fit" them to the labels (of a fine-tuned model: to what it does not explain yet), or
    "keep" those of the model."""
    reference_energies: dict[str, float] = field(default_factory=dict)
    """Energies of elements that are taken as given, eV: { Si = -5.4 }."""
    stress_unit: str = "eV/A^3"
    """Of the stress labels: "eV/A^3", "GPa" or "kBar"."""
    stress_sign: str = "tension"
    """Which stress is positive in the labels: under "tension" (ASE) or under "compression" (VASP)."""
    augment: bool | None = None
    """Rotate each structure at random each time it is used; left out: only for architectures that are not invariant
    under rotations (allscaip)."""
    batch_size: int = 16
    """Structures in a step, over all ranks; at most."""
    balance_for: int = 1
    """Ranks for which batches are composed so that each can get a like share; set it to the largest number you will
    use. The batches follow from this number, not from the ranks that are there."""
    max_cost: float = 0.0
    """What a rank computes at a time, in the units of `uip.data.sampler` (CHGNet: 4 an atom, 1.1 a directed edge, 1 an
    angle); a larger share is cut up and its gradients accumulated: less memory, hardly more time. 0: no limit."""

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("'data.train' must name at least one file, got none")
        for key, known in (("stress_unit", STRESS_UNITS), ("stress_sign", STRESS_SIGNS)):
            if getattr(self, key) not in known:
                raise ValueError(f"'data.{key}' must be one of {', '.join(known)}, got {getattr(self, key)!r}")
        if self.augment is not None and not isinstance(self.augment, bool):
            raise ValueError(f"'data.augment' must be true or false, got {self.augment!r}")
        if self.batch_size < 1:
            raise ValueError(f"'data.batch_size' must be at least 1, got {self.batch_size}")
        if not 1 <= self.balance_for <= self.batch_size:
            raise ValueError(f"'data.balance_for' must lie between 1 and the batch size, got {self.balance_for}")
        if self.reference not in ("fit", "keep"):
            raise ValueError(f"'data.reference' must be 'fit' or 'keep', got {self.reference!r}")

    def augments(self, model: str) -> bool:
        """Whether structures are rotated at random for the architecture `model`."""
        return model == "allscaip" if self.augment is None else self.augment

    @property
    def stress_scale(self) -> float:
        """What turns the stress labels into eV/A^3, positive under tension."""
        return STRESS_UNITS[self.stress_unit] * STRESS_SIGNS[self.stress_sign]


@dataclass(frozen=True)
class RunConfig:
    """Where, how long, with what numbers."""

    folder: str = "run"
    """Relative to the TOML file: checkpoints, log and curves."""
    epochs: int = 30
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    hours: float = 0.0
    """Stop, with a checkpoint, after this time of training; 0: after the last epoch."""
    checkpoint_steps: int = 0
    """Steps between checkpoints; 0: one an epoch."""
    threads: int = 0
    """Of each rank; 0: torch decides."""
    max_jump: float = 1000.0
    """A loss larger than its recent average by this factor stops the run; 0: never."""
    tf32: bool = False
    """Let GPUs multiply float32 matrices with 10-bit mantissas: faster, and good enough for training in most cases."""
    recompute: bool = False
    """Compute intermediates of layers again instead of keeping them for derivatives: two fifths of the memory, half as
    long again (CHGNet). First try a small `data.max_cost`; for one large structure there is no other way."""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"'run.epochs' must be at least 1, got {self.epochs}")


@dataclass(frozen=True)
class TrainConfig:
    """A run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def values(self) -> dict[str, Any]:
        """As plain containers, for checkpoints."""
        return asdict(self)


CHANGEABLE = {
    "run.folder",
    "run.device",
    "run.hours",
    "run.checkpoint_steps",
    "run.threads",
    "run.tensorboard",
    "data.cache",
}
"""What does not decide the numbers of a run, and may differ when it resumes."""


PATHS = {"data.train", "data.validation"}
"""What may differ from machine to machine; what is in the files may not."""

RENAMED = {"model.start": "init_from", "model.move": "trainable", "data.rotate": "augment"}
"""Old keys, which are still read, and their new names in the same table."""


def read_config(path: Path | str) -> TrainConfig:
    """The run that a TOML file describes; its paths become relative to the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, an unknown key, or a value that cannot be.
    """
    path = existing_file(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be TOML: {error}") from error
    return make_config(values, path.parent)


def make_config(values: dict[str, Any], folder: Path = Path()) -> TrainConfig:
    """A run from plain values; relative paths start at `folder`."""
    values = rename_old_keys(values, warn=True)
    data = dict(values.get("data", {}))
    for key in ("train", "validation"):
        files = data.get(key, ())
        data[key] = [str(folder / name) for name in ([files] if isinstance(files, str) else files)]
    run = dict(values.get("run", {}))
    run["folder"] = str(folder / run.get("folder", RunConfig.folder))
    model = dict(values.get("model", {}))
    if (folder / str(model.get("init_from", ""))).is_file():
        model["init_from"] = str(folder / model["init_from"])
    tables = {**values, "data": from_dict(DataConfig, data, "data"), "run": run, "model": model}
    return from_dict(TrainConfig, tables)


def rename_old_keys(values: dict[str, Any], *, warn: bool) -> dict[str, Any]:
    """`values` with the keys of `RENAMED` under their new names.

    Raises:
        ValueError: a table has both names of a setting.
    """
    renamed = {table: dict(settings) if isinstance(settings, dict) else settings for table, settings in values.items()}
    for path, new in RENAMED.items():
        table, old = path.split(".")
        settings = renamed.get(table)
        if not isinstance(settings, dict) or old not in settings:
            continue
        if new in settings:
            raise ValueError(f"'{table}.{new}' is set twice: '{path}' is its old name; remove '{path}'")
        if warn:
            warnings.warn(f"'{path}' is now named '{table}.{new}'; please rename it", FutureWarning, stacklevel=3)
        settings[new] = settings.pop(old)
    return renamed


def fixed_settings(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's numbers, "table.key" -> value; see `CHANGEABLE`."""
    flat = {f"{table}.{key}": value for table, settings in values.items() for key, value in settings.items()}
    return {key: value for key, value in sorted(flat.items()) if key not in CHANGEABLE}


def differences(config: TrainConfig, saved: dict[str, Any]) -> list[str]:
    """Keys, outside `CHANGEABLE`, on which a run disagrees with the settings in a checkpoint.

    A setting that did not exist when the checkpoint was written had what is its default now.
    """
    defaults = fixed_settings(TrainConfig(DataConfig(train=config.data.train)).values())
    ours, theirs = fixed_settings(config.values()), {**defaults, **fixed_settings(rename_old_keys(saved, warn=False))}
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
