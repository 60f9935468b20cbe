"""Prepares a run: folder, device, initial model, data."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.io import write

from uip.checkpoint import MODELS, load_heads, parse_device
from uip.config import from_dict
from uip.data.cache_build import NO_LOCKS
from uip.data.dataset import Dataset, GraphSettings, SampleStore, open_store
from uip.data.label_checks import duplicate_warnings, label_warnings, summarise
from uip.data.samples import Sample
from uip.data.sharded import ShardedStore, existing_source
from uip.data.split import group_split, groups_of, random_split
from uip.models.card import Coverage, ModelCard
from uip.models.heads import Heads, first_head, one_head
from uip.models.potential import Potential
from uip.schema import Integers
from uip.train.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from uip.train.data_sets import LabelConventions, SetConfig
from uip.train.distributed import Ranks
from uip.train.heads import of_head
from uip.train.optim import is_chosen


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


def initial_model(config: TrainConfig) -> Potential | Heads:
    """The model before the first step, on the CPU: random weights in float32, or those of `model.init_from` in the
    dtype of the run.

    Raises:
        ValueError: an unknown kind, `model.architecture` does not fit the weights, or no choice among their heads.
    """
    choice = config.model
    card = ModelCard(
        name=choice.name or Path(config.run.folder).resolve().name, theory=choice.theory, licence=choice.licence
    )
    if choice.kind and choice.kind not in MODELS:
        raise ValueError(f"'model.kind' must be one of {', '.join(MODELS)}, got {choice.kind!r}")
    model = _fine_tuned(choice, card, config.run.dtype) if choice.init_from else _new(choice, card)
    if choice.heads and isinstance(model, Potential):
        model = Heads.of(model, choice.heads)
    if config.run.recompute:
        for head in model.heads.values():
            head.recompute = True
    return model


def _new(choice: ModelConfig, card: ModelCard) -> Potential:
    architecture, settings = MODELS[choice.kind or "chgnet"]
    model = architecture(from_dict(settings, choice.architecture, "model.architecture"))
    model.card = card
    return model


def _fine_tuned(choice: ModelConfig, card: ModelCard, dtype: str) -> Potential | Heads:
    """Of several heads, those with the names of the old ones, or one to start all others from."""
    old = load_heads(choice.init_from, dtype=dtype)
    if isinstance(old, Potential) or choice.init_head or not choice.heads:
        start = one_head(old, choice.init_head or None, choice.init_from)
        return _adapted(choice, _tuned_card(choice, card, start.card), start)
    unknown = [name for name in choice.heads if name not in old.heads]
    if unknown:
        raise ValueError(
            f"without 'model.init_head', 'model.heads' must be heads of '{choice.init_from}', {', '.join(old.heads)}, "
            f"but {', '.join(unknown)} is none; set 'model.init_head' to the one that all start from"
        )
    card = _tuned_card(choice, card, old.card)
    return Heads({name: _adapted(choice, card, old.heads[name]) for name in choice.heads})


def _tuned_card(choice: ModelConfig, card: ModelCard, old: ModelCard) -> ModelCard:
    return replace(
        card,
        licence=choice.licence or old.licence,
        reference="; ".join(text for text in (f"fine-tuned from {old.name}", old.reference) if text),
    )


def _adapted(choice: ModelConfig, card: ModelCard, old: Potential) -> Potential:
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
    model.coverage, model.card = old.coverage, card
    return model


def _first(error: RuntimeError) -> str:
    """torch's message about the first tensor that does not fit."""
    return str(error).splitlines()[1].strip()


def open_data(config: TrainConfig, model: Potential | Heads) -> tuple[Dataset, Dataset]:
    """Training and validation data, of all data sets."""
    for choice in config.data.by_name.values():
        for path in (*choice.train, *choice.validation, *choice.test):
            existing_source(path)
    parts = [open_set(config, model, choice) for choice in config.data.by_name.values()]
    return parts[0] if len(parts) == 1 else tuple(Dataset.join(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def open_test(config: TrainConfig, model: Potential | Heads) -> Dataset:
    """The structures to test with, of all data sets."""
    parts = [open_files(config, model, choice.test, choice) for choice in config.data.by_name.values()]
    return parts[0] if len(parts) == 1 else Dataset.join(parts)


def open_set(config: TrainConfig, model: Potential | Heads, choice: DataConfig | SetConfig) -> tuple[Dataset, Dataset]:
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
    config: TrainConfig, model: Potential | Heads, paths: Sequence[str], labels: LabelConventions
) -> Dataset:
    """All structures of files and data stores, as graphs of `model`.

    One rank (on each machine, if machines have caches of their own) builds graphs that are not cached yet. The others
    wait for its lock, not in a barrier, which would give up after half an hour.
    """
    data, head = config.data, first_head(model)  # all heads have the same graphs
    graph = (head.cutoff, head.bond_cutoff, head.soft, head.supported_elements)
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


def set_coverage(config: TrainConfig, model: Potential | Heads, training: Dataset) -> None:
    """Record what each head is trained for; raises ValueError for forces that would not be trained."""
    for name, head in model.heads.items():
        part = of_head(config, training, name)
        check_direct(config, head, part)
        head.coverage = coverage_of(config, head, part)


def coverage_of(config: TrainConfig, model: Potential, training: Dataset) -> Coverage | None:
    """What `model` is trained for after a run with these data; None for weights of which it is not recorded."""
    if config.model.init_from and model.coverage is None:
        return None
    before = model.coverage or Coverage((), magmoms=False)
    elements = {z for z in model.supported_elements if training.contains(z).any()}
    weights = [config.loss.weights(progress)["magmoms"] for progress in (0.0, 1.0)]
    moment = f"{model.head}.magmom.weight" if model.head else "magmom.weight"
    moves = is_chosen(moment, config.model.trained, {model.head})
    moments = moves and max(weights) > 0 and training.num_labels("magmoms") > 0
    return Coverage(tuple(sorted(elements.union(before.elements))), moments or before.magmoms)


def data_warnings(
    config: TrainConfig, model: Potential | Heads, training: Dataset, validation: Dataset, test: Dataset
) -> list[str]:
    """Warnings about labels, duplicates and elements; head by head: others may have other zeros of energy, and the same
    structures."""
    found = []
    for name, head in model.heads.items():
        train, seen, tested = (of_head(config, data, name) for data in (training, validation, test))
        warnings = label_warnings(summarise(train)) + duplicate_warnings(train, seen)
        warnings += element_warnings(head, {"validation": seen, "test": tested})
        found += [f"head {name}: {warning}" if name else warning for warning in warnings]
    return found


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
