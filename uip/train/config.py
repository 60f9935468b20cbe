"""The training config: one TOML file, read into dataclasses, with documentation and default of each setting.

[model]  architecture and initial weights     [data]  data set, split, batches     [loss]  see uip/train/loss.py
[optim]  see uip/train/optim.py               [run]   folder, length, precision    [data.sets.NAME]  more data sets
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uip.config import existing_file, from_dict
from uip.train.data_sets import MAIN, LabelConventions, SetConfig, check_heads, set_configs
from uip.train.loss import LossConfig
from uip.train.optim import OptimConfig
from uip.train.overrides import with_overrides

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ModelConfig:
    """The model: architecture, initial weights, trainable weights."""

    kind: str = ""
    """The architecture: "chgnet" or "allscaip"; empty: that of `init_from`, or chgnet."""
    init_from: str = ""
    """A published name or a checkpoint to fine-tune; empty: random weights."""
    heads: tuple[str, ...] = ()
    """Names of the heads of a model with several (levels of theory): ["pbe", "r2scan"]. Each data set names the head
    that it trains."""
    init_head: str = ""
    """The head of `init_from` to start from, if it has several. With `heads` it may be left out: heads then start from
    those of the same names."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Changes to the defaults of CHGNetConfig or AllScAIPConfig; with `init_from`, only `readout` can be changed."""
    trainable: tuple[str, ...] = ("*",)
    """Trainable weights: names as shell patterns, for example ["readout.*", "atom_updates.3.*"]. With `lora_rank`:
    those that are trained as they are, without low-rank factors; "*" then means none."""
    lora_rank: int = 0
    """Fine-tuning: if set, the matrices of linear layers get low-rank changes of this rank (LoRA), and other weights do
    not change."""
    lora_layers: tuple[str, ...] = ("*",)
    """Linear layers with low-rank changes: names as shell patterns, for example ["atom_updates.*"]. Matrices that two
    factors would not make smaller do not change."""
    name: str = ""
    """Name of the new potential; empty: the name of the run's folder."""
    theory: str = ""
    """Level of theory of the labels; stored with the model."""
    licence: str = ""
    """Licence of the new weights; stored with the model."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"'model.lora_rank' must be at least 1, or 0 for none, got {self.lora_rank}")
        if not all(isinstance(name, str) and name for name in self.heads):
            raise ValueError(f"'model.heads' must be a list of names, got {list(self.heads)}")
        if len(self.heads) == 1:
            raise ValueError(f"'model.heads' must have two names or more, got only {self.heads[0]!r}; leave it out")
        for name in self.heads:
            if self.heads.count(name) > 1:
                raise ValueError(f"'model.heads' must have different names, but {name!r} is there twice")
        if self.init_head and not self.init_from:
            raise ValueError("'model.init_head' is a head of 'model.init_from', which is empty; leave it out")
        if not self.trainable and not self.lora_rank:
            raise ValueError("'model.trainable' must name a part of the model, got none; leave it out to train all")
        if not self.lora_rank and self.lora_layers != ("*",):
            raise ValueError("'model.lora_layers' needs 'model.lora_rank', which is 0; set it, for example to 8")
        if self.lora_rank and not self.init_from:
            raise ValueError(
                "'model.lora_rank' changes trained weights, but 'model.init_from' is empty; set it, or leave the rank "
                "out"
            )

    @property
    def trained(self) -> tuple[str, ...]:
        """Patterns of the weights that are trained as they are."""
        return () if self.lora_rank and self.trainable == ("*",) else self.trainable


@dataclass(frozen=True)
class DataConfig(LabelConventions):
    """The data set: files, split, conventions of labels, batches."""

    train: tuple[str, ...] = ()
    """Files of labelled structures or data stores (of `uip data build`), relative to the TOML file."""
    validation: tuple[str, ...] = ()
    """Files or data stores for validation; empty: a part of the training structures."""
    test: tuple[str, ...] = ()
    """Files or data stores on which the best potential is tested at the end of the run."""
    head: str = ""
    """Head (level of theory) that these labels train, one of `model.heads`; empty: the first."""
    sets: dict[str, SetConfig] = field(default_factory=dict)
    """Further data sets, each a table [data.sets.NAME] of its own."""
    validation_fraction: float = 0.05
    """Fraction of the training structures that is used for validation, if there are no validation files."""
    split_by: str = ""
    """Group split: structures with the same value stay together. "formula", or an info key of every structure
    ("material" in MPtrj); empty: random split."""
    split_seed: int = 0
    """Random seed of the split."""
    cache: str = ""
    """Folder for cached graphs, relative to the TOML file; empty: `cache` in the run's folder."""
    reference: str = "fit"
    """Reference energies of elements (E0s): "fit" them to the labels (in fine-tuning: to the residuals of the model),
    or "keep" those of the model."""
    reference_structures: int = 2000
    """Fine-tuning: number of training structures, drawn at random, whose residuals are fitted; structures with rare
    elements are added."""
    reference_energies: dict[str, float] = field(default_factory=dict)
    """Reference energies of elements that are not fitted, eV: { Si = -5.4 }."""
    scale: str = "none"
    """Factor of the outputs of a new model: "rmsd", the root mean square of the force labels (allscaip), or "none"."""
    energy_key: str = ""
    """Entry of the files (info of ASE) with the energy, for example "REF_energy"; empty: free_energy of ASE, else its
    energy."""
    forces_key: str = ""
    """Entry of the files (array of ASE) with the forces; empty: ASE's forces."""
    stress_key: str = ""
    """Entry of the files (info of ASE) with the stress, six numbers in ASE's order or nine; with "virial" in its name:
    the virial, -stress times volume, in eV. Empty: ASE's stress."""
    stress_unit: str = "eV/A^3"
    """Unit of the stress labels: "eV/A^3", "GPa" or "kBar"."""
    stress_sign: str = "tension"
    """Sign of the stress labels: positive under "tension" (ASE) or under "compression" (VASP)."""
    augment: bool | None = None
    """Data augmentation: rotate each structure at random each time it is used. Left out: only for architectures that
    are not invariant under rotations (allscaip)."""
    batch_size: int = 16
    """Largest number of structures in a step, over all ranks."""
    balance_for: int = 1
    """Number of ranks for which the cost of batches is balanced; set it to the largest number of ranks that you will
    use. Batches depend on this setting, not on the actual number of ranks."""
    workers: int = 0
    """Processes of each rank that prepare batches ahead of the model; 0: one thread. Data stores on GPUs need two or
    more: graphs are built as they are needed."""
    max_cost: float = 0.0
    """Largest cost of a micro-batch, in the units of `uip.data.sampler` (CHGNet: 4 per atom, 1.1 per directed edge, 1
    per angle). A larger shard is divided and its gradients are accumulated: less memory, little more time. 0: no
    limit."""

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("'data.train' must name at least one file, got none")
        self.check_conventions("data")
        if self.scale not in ("none", "rmsd"):
            raise ValueError(f"'data.scale' must be 'rmsd' or 'none', got {self.scale!r}")
        if self.augment is not None and not isinstance(self.augment, bool):
            raise ValueError(f"'data.augment' must be true or false, got {self.augment!r}")
        if self.batch_size < 1:
            raise ValueError(f"'data.batch_size' must be at least 1, got {self.batch_size}")
        if self.workers < 0:
            raise ValueError(f"'data.workers' must not be negative, got {self.workers}")
        if not 1 <= self.balance_for <= self.batch_size:
            raise ValueError(f"'data.balance_for' must lie between 1 and the batch size, got {self.balance_for}")
        if self.reference_structures < 1:
            raise ValueError(f"'data.reference_structures' must be at least 1, got {self.reference_structures}")

    def augments(self, model: str) -> bool:
        """Whether structures are rotated at random, for the architecture `model`."""
        return model == "allscaip" if self.augment is None else self.augment

    @property
    def by_name(self) -> dict[str, DataConfig | SetConfig]:
        """All data sets, the main one first."""
        return {MAIN: self, **self.sets}

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the labels of all data sets."""
        return (1.0, *(choice.weight for choice in self.sets.values()))


@dataclass(frozen=True)
class RunConfig:
    """The run: folder, length, checkpoints, device and precision."""

    folder: str = "run"
    """Folder for checkpoints, log and curves, relative to the TOML file."""
    epochs: int = 30
    """Number of passes over the training structures."""
    seed: int = 0
    """Random seed of initial weights, batches and rotations."""
    dtype: str = "float32"
    """Precision: "float32" or "float64"."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N"."""
    hours: float = 0.0
    """Stop, with a checkpoint, after this training time; 0: no limit."""
    patience: int = 0
    """Early stopping: end the run after this number of epochs without a lower validation loss; 0: never."""
    keep_best: int = 0
    """Number of best epochs whose potentials are kept, as epoch_0012.ckpt, ...; 0: only that of the best, best.ckpt."""
    checkpoint_steps: int = 0
    """Steps between checkpoints; 0: one per epoch."""
    threads: int = 0
    """Threads of each rank; 0: torch's default."""
    max_jump: float = 1000.0
    """Stop the run if the loss exceeds its recent average by this factor; 0: never."""
    tf32: bool = False
    """TF32 matrix products on GPUs (10-bit mantissa): faster, and sufficient for training in most cases."""
    recompute: bool = False
    """Activation checkpointing: recompute intermediates of layers instead of storing them. CHGNet: on GPUs two fifths
    of the memory, 1.5 times the time; no effect on CPUs, where messages are fused. Try a small `data.max_cost` first;
    only a single large structure needs this."""
    tensorboard: bool = False
    """Also write the log for TensorBoard."""
    wandb: str = ""
    """Also send the log to this project of Weights & Biases; empty: not."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"'run.epochs' must be at least 1, got {self.epochs}")
        if self.patience < 0:
            raise ValueError(f"'run.patience' must not be negative, got {self.patience}")
        if self.keep_best < 0:
            raise ValueError(f"'run.keep_best' must not be negative, got {self.keep_best}")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name, choice in self.data.sets.items():
            if choice.reference == "keep" and not self.model.init_from:
                raise ValueError(
                    f"'data.sets.{name}.reference' 'keep' is the zero of 'model.init_from', which is empty; use 'fit'"
                )
        if self.model.lora_rank and self.optim.optimizer == "muon":
            raise ValueError(
                "'optim.optimizer' must be 'adamw' with 'model.lora_rank', got 'muon': it is for whole matrices"
            )
        check_heads(self.model.heads, self.data.by_name, self.head_of_set)

    @property
    def head_of_set(self) -> tuple[str, ...]:
        """Name of the head of each data set; empty if the model has one."""
        default = self.model.heads[0] if self.model.heads else ""
        return tuple(choice.head or default for choice in self.data.by_name.values())

    def values(self) -> dict[str, Any]:
        """The settings as plain containers, for checkpoints."""
        return asdict(self)


CHANGEABLE = {
    "run.folder",
    "run.device",
    "run.hours",
    "run.checkpoint_steps",
    "run.keep_best",
    "run.threads",
    "run.tensorboard",
    "run.wandb",
    "data.cache",
    "data.test",
    "data.workers",
}
"""Settings that do not affect the results of a run, and may change when it is resumed."""

ADJUSTABLE = {
    "data.max_cost",
    "optim.learning_rate",
    "optim.clip",
    "run.epochs",
    "run.max_jump",
    "run.patience",
    "run.recompute",
}
"""Settings that affect results and may nevertheless change when a run is resumed; the change is logged."""

FILES = ("train", "validation", "test")
"""Settings of a data set that are files."""

PATHS = {"data.train", "data.validation"}
"""Paths, which may differ between machines and when a run is resumed; the structures must be the same. So may those of
other data sets."""

RENAMED = {"model.start": "init_from", "model.move": "trainable", "data.rotate": "augment"}
"""Deprecated keys, and their new names in the same table."""


def read_config(path: Path | str, overrides: Iterable[str] = ()) -> TrainConfig:
    """The config in a TOML file, with settings replaced by `overrides`; its paths become relative to the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, an unknown key, an invalid value, or not an override.
    """
    path = existing_file(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be TOML: {error}") from error
    return make_config(with_overrides(values, overrides), path.parent)


def make_config(values: dict[str, Any], folder: Path = Path()) -> TrainConfig:
    """A config from plain values; paths are relative to `folder`."""
    values = rename_old_keys(values, warn=True)
    data = dict(values.get("data", {}))
    data |= file_lists(data, FILES, folder)
    sets = data.get("sets", {})
    if isinstance(sets, dict):
        sets = {
            name: {**table, **file_lists(table, FILES, folder)} if isinstance(table, dict) else table
            for name, table in sets.items()
        }
    data["sets"] = set_configs(sets)
    if isinstance(data.get("cache"), str) and data["cache"]:
        data["cache"] = cache_folder(data["cache"], folder)
    run = dict(values.get("run", {}))
    run["folder"] = str(folder / run.get("folder", RunConfig.folder))
    model = dict(values.get("model", {}))
    if (folder / str(model.get("init_from", ""))).is_file():
        model["init_from"] = str(folder / model["init_from"])
    tables = {**values, "data": from_dict(DataConfig, data, "data"), "run": run, "model": model}
    return from_dict(TrainConfig, tables)


def file_lists(table: dict[str, Any], keys: Iterable[str], folder: Path) -> dict[str, list[str]]:
    """The files of each key, one or several, relative to `folder`."""
    named = {key: table.get(key, ()) for key in keys}
    for key, files in named.items():
        names = [files] if isinstance(files, str) else files
        if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"'{key}' of a data set must be a file or a list of files, got {files!r}")
    return {
        key: [str(folder / name) for name in ([files] if isinstance(files, str) else files)]
        for key, files in named.items()
    }


def cache_folder(name: str, folder: Path) -> str:
    """`data.cache` relative to `folder`; where only the working directory has it, as in versions up to 0.1, there."""
    path, old = folder / name, Path(name)
    if path.exists() or not old.is_dir():
        return str(path)
    warnings.warn(
        f"'data.cache' is now relative to the TOML file: {path}; the cache {old.resolve()} in the working directory is "
        "used once more, please move it there",
        FutureWarning,
        stacklevel=4,
    )
    return str(old)


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


def is_path(name: str) -> bool:
    """Whether a setting is one of `PATHS`, or the same of another data set."""
    return name in PATHS or (name.startswith("data.sets.") and name.endswith((".train", ".validation")))


def fixed_settings(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that affect the results of a run, "table.key" -> value; see `CHANGEABLE`."""
    sets = values["data"].get("sets", {})  # a table of tables
    tables = {**values, **{f"data.sets.{name}": settings for name, settings in sets.items()}}
    flat = {f"{table}.{key}": value for table, settings in tables.items() for key, value in settings.items()}
    flat.pop("data.sets", None)
    return {key: value for key, value in sorted(flat.items()) if not is_changeable(key)}


def is_changeable(name: str) -> bool:
    """Whether a setting is one of `CHANGEABLE`, or the same of another data set."""
    return name in CHANGEABLE or (name.startswith("data.sets.") and name.endswith(".test"))


Changes = dict[str, tuple[Any, Any]]
"""Settings that were changed, "table.key" -> (old value, new value)."""


def changes(config: TrainConfig, saved: dict[str, Any]) -> Changes:
    """Settings outside `CHANGEABLE` whose values differ from those in a checkpoint.

    A setting that is missing in the checkpoint has its default value.
    """
    sets = {name: SetConfig() for name in config.data.sets}
    defaults = fixed_settings(TrainConfig(DataConfig(train=config.data.train, sets=sets)).values())
    ours, theirs = fixed_settings(config.values()), {**defaults, **fixed_settings(rename_old_keys(saved, warn=False))}
    found = {key: (theirs.get(key), ours.get(key)) for key in sorted(ours.keys() | theirs.keys())}
    return {key: (old, new) for key, (old, new) in found.items() if old != new}
