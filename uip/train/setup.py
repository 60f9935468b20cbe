"""Prepares a run: folder, device, initial model, data."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.io import write

from uip.checkpoint import MODELS, load_model, parse_device
from uip.config import from_dict
from uip.data.cache_build import NO_LOCKS
from uip.data.dataset import Dataset, GraphSettings, SampleStore, open_store
from uip.data.samples import Sample
from uip.data.sharded import ShardedStore, existing_source
from uip.data.split import group_split, groups_of, random_split
from uip.models.card import Coverage, ModelCard
from uip.models.potential import Potential
from uip.schema import Integers
from uip.train.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from uip.train.data_sets import LabelConventions, SetConfig
from uip.train.distributed import Ranks


def run_device(run: RunConfig) -> torch.device:
    """The device of this process; with several processes on a machine, each uses its own GPU."""
    device = parse_device(run.device)
    if device.type == "cuda" and device.index is None:
        device = parse_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def prepare_folder(folder: Path, ranks: Ranks, *, resume: bool) -> None:
    """Create the run's folder, and remove temporary files of an interrupted write.

    Raises:
        ValueError: the folder contains another run, or another process trains in it.
        OSError: it cannot be written.
    """
    if ranks.is_first:
        with explain_write_errors(folder, "choose another 'run.folder', or change its permissions"):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / "probe.tmp"
            probe.touch()
            probe.unlink()
        _lock(folder)
        if (folder / "last.ckpt").exists() and not resume:
            raise ValueError(f"{folder} already contains a run; add --resume to continue it, or choose another folder")
        for rest in folder.glob("*.tmp"):
            rest.unlink()
    ranks.barrier()


def _lock(folder: Path) -> None:
    """Keep other runs out of the folder until this process ends; nothing on file systems without locks."""
    if (before := _locks.pop(folder.resolve(), None)) is not None:
        before.close()
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f"one run can write to {folder}, but another process trains there; wait for its end, or choose another "
            "'run.folder'"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    _locks[folder.resolve()] = file


_locks: dict[Path, IO[str]] = {}
"""Open lock files of this process."""


@contextmanager
def explain_write_errors(path: Path, advice: str) -> Iterator[None]:
    """Within the context, errors of the file system get a message with the path and advice."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error}); {advice}") from error
    except RuntimeError as error:  # torch's error if the disk is full
        if "PytorchStreamWriter" not in str(error):
            raise
        raise OSError(f"{path} cannot be written ({str(error).splitlines()[0]}); {advice}") from error


def initial_model(config: TrainConfig) -> Potential:
    """The model before the first step, on the CPU: random weights in float32, or those of `model.init_from` in the
    dtype of the run.

    Raises:
        ValueError: an unknown kind, or `model.architecture` does not fit the weights.
    """
    choice = config.model
    card = ModelCard(
        name=choice.name or Path(config.run.folder).resolve().name, theory=choice.theory, licence=choice.licence
    )
    if choice.kind and choice.kind not in MODELS:
        raise ValueError(f"'model.kind' must be one of {', '.join(MODELS)}, got {choice.kind!r}")
    model = _fine_tuned(choice, card, config.run.dtype) if choice.init_from else _new(choice, card)
    if config.run.recompute:
        model.recompute = True
    return model


def _new(choice: ModelConfig, card: ModelCard) -> Potential:
    architecture, settings = MODELS[choice.kind or "chgnet"]
    model = architecture(from_dict(settings, choice.architecture, "model.architecture"))
    model.card = card
    return model


def _fine_tuned(choice: ModelConfig, card: ModelCard, dtype: str) -> Potential:
    old = load_model(choice.init_from, dtype=dtype)
    if choice.kind not in ("", old.name):
        raise ValueError(f"'model.kind' is {choice.kind!r}, but '{choice.init_from}' is {old.name!r}; leave it out")
    architecture, settings = MODELS[old.name]
    known = old.settings()
    # `published_rounding` reproduces published numbers; it is not needed for weights that are trained further
    exact = {name: False for name in ("published_rounding",) if name in known}
    config = from_dict(settings, {**known, **exact, **choice.architecture}, "model.architecture")
    if choice.lora_rank and config.readout != old.config.readout:
        raise ValueError(
            f"with 'model.lora_rank' the readout must be that of '{choice.init_from}', {old.config.readout!r}, got "
            f"{config.readout!r}; train the new readout without LoRA first"
        )
    model = architecture(config).to(dtype=old.dtype)
    # the readout may differ: weights of a new direct readout are random, those of an old one are dropped
    comparable = architecture(replace(config, readout=old.config.readout)).to(dtype=old.dtype)
    try:
        comparable.load_state_dict(old.state_dict())
        model.load_state_dict(old.state_dict(), strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"'model.architecture' must fit the weights of '{choice.init_from}', but {_first(error)}"
        ) from error
    model.coverage = old.coverage
    model.card = replace(
        card,
        licence=choice.licence or old.card.licence,
        reference="; ".join(text for text in (f"fine-tuned from {old.card.name}", old.card.reference) if text),
    )
    return model


def _first(error: RuntimeError) -> str:
    """torch's message about the first tensor that does not fit."""
    return str(error).splitlines()[1].strip()


def open_data(config: TrainConfig, model: Potential) -> tuple[Dataset, Dataset]:
    """Training and validation data, of all data sets."""
    for choice in config.data.by_name.values():
        for path in (*choice.train, *choice.validation):
            existing_source(path)
    for path in config.data.test:
        existing_source(path)
    parts = [open_set(config, model, choice) for choice in config.data.by_name.values()]
    return parts[0] if len(parts) == 1 else tuple(Dataset.join(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def open_set(config: TrainConfig, model: Potential, choice: DataConfig | SetConfig) -> tuple[Dataset, Dataset]:
    """Training and validation data of one data set."""
    training = open_files(config, model, choice.train, choice)
    if isinstance(choice, SetConfig) and 0 < choice.structures < len(training):
        order = np.random.default_rng(config.data.split_seed).permutation(len(training))
        training = training.subset(np.sort(order[: choice.structures]))
    if choice.validation:
        return training, open_files(config, model, choice.validation, choice)
    parts = split_dataset(training, config.data)
    return training.subset(parts[0]), training.subset(parts[1])


def open_files(
    config: TrainConfig, model: Potential, paths: Sequence[str], choice: LabelConventions | None = None
) -> Dataset:
    """All structures of files and data stores, as graphs of `model`; labels as in the main set, or as of `choice`.

    One rank (on each machine, if machines have caches of their own) builds graphs that are not cached yet. The others
    wait for its lock, not in a barrier, which would give up after half an hour.
    """
    data, labels = config.data, choice or config.data
    graph = (model.cutoff, model.bond_cutoff, model.soft, model.supported_elements)
    settings = GraphSettings(*graph, labels.stress_scale, labels.label_keys)
    cache = Path(data.cache) if data.cache else Path(config.run.folder) / "cache"
    stores: list[SampleStore] = []
    for path in paths:
        if Path(path).is_dir():
            stores.append(ShardedStore(Path(path), settings))
            continue
        with explain_write_errors(cache, "free disk space, or choose another 'data.cache'"):
            stores.append(open_store(path, settings, cache))
    return Dataset(stores)


def coverage_of(config: TrainConfig, model: Potential, training: Dataset) -> Coverage | None:
    """What `model` is trained for after a run with these data; None for weights of which it is not recorded."""
    if config.model.init_from and model.coverage is None:
        return None
    before = model.coverage or Coverage((), magmoms=False)
    elements = {z for z in model.supported_elements if training.contains(z).any()}
    weights = [config.loss.weights(progress)["magmoms"] for progress in (0.0, 1.0)]
    moves = any(fnmatchcase("magmom.weight", pattern) for pattern in config.model.trained)
    moments = moves and max(weights) > 0 and training.num_labels("magmoms") > 0
    return Coverage(tuple(sorted(elements.union(before.elements))), moments or before.magmoms)


def element_warnings(model: Potential, data: Mapping[str, Dataset]) -> list[str]:
    """Warnings about data sets, by name, with elements whose weights are not trained."""
    if model.coverage is None:
        return []
    others = [z for z in model.supported_elements if z not in model.coverage.elements]
    result = []
    for name, structures in data.items():
        numbers = {chemical_symbols[z]: int(structures.contains(z).sum()) for z in others} if len(structures) else {}
        found = [f"{symbol} ({number} structures)" for symbol, number in numbers.items() if number]
        if found:
            result.append(
                f"{name} structures contain {', '.join(found)}, which no training structure contains: their errors "
                "are those of random weights"
            )
    return result


def check_direct(config: TrainConfig, model: Potential, training: Dataset) -> None:
    """Raises ValueError for a direct readout that is not trained on forces: its forces would be random numbers."""
    weights = [config.loss.weights(progress)["forces"] for progress in (0.0, 1.0)]
    if model.conservative or (max(weights) > 0 and training.num_labels("forces") > 0):
        return
    raise ValueError(
        "a direct readout must be trained on forces, but 'loss.forces' is zero or no training structure has forces; "
        "set both, or take readout = 'gradient'"
    )


def split_dataset(data: Dataset, choice: DataConfig) -> tuple[Integers, Integers]:
    """Numbers of the training and of the validation samples."""
    if choice.split_by:
        return group_split(groups_of(data, choice.split_by), choice.validation_fraction, choice.split_seed)
    return random_split(len(data), choice.validation_fraction, choice.split_seed)


def write_structures(samples: list[Sample], path: Path) -> None:
    """Write the structures of batches with their labels as extxyz, for debugging."""
    frames = []
    for sample in samples:
        graph, targets = sample.graph.to(device="cpu"), sample.targets.to(device="cpu")
        for k in range(graph.num_graphs):
            mine = graph.graph_index == k
            atoms = Atoms(
                graph.atomic_numbers[mine].numpy(),
                graph.positions[mine].double().numpy(),
                cell=graph.cell[k].double().numpy(),
                pbc=graph.pbc[k].numpy(),
            )
            atoms.info["label_energy"] = float(targets.energy[k])
            atoms.arrays["label_forces"] = targets.forces[mine].double().numpy()
            frames.append(atoms)
    write(path, frames, format="extxyz")
