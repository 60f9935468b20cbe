"""From files to batches: labelled structures are checked, converted to graphs once, cached in a `Store`, split,
and joined into batches.

Any label of a structure may be missing. An unusable label is an error that names the structure.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import ase
import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from uip.config import existing_file, suggestion
from uip.data.cache import CACHE_VERSION, Store
from uip.data.cache_build import build_store
from uip.data.labels import ASE_NAMES, LabelKeys, Labels, check_labels, labels_from_atoms, possible_labels
from uip.data.read import read_structures
from uip.data.samples import Sample, Targets, join_targets
from uip.graph.batch import batch
from uip.graph.neighbors import build_graph
from uip.graph.structure import Structure
from uip.ops.soft_rank import SoftNearest
from uip.schema import Integers


@dataclass(frozen=True)
class GraphSettings:
    """Settings of the graphs of a model."""

    cutoff: float
    bond_cutoff: float | None
    soft: SoftNearest | None
    elements: tuple[int, ...]
    stress_scale: float = 1.0
    """Factor from stress labels to eV/A^3, positive under tension."""
    keys: LabelKeys = ASE_NAMES


def make_sample(structure: Structure, labels: Labels, settings: GraphSettings) -> Sample:
    """Graph and targets of one structure, float64.

    Raises:
        ValueError: an element that the model does not support, or a label that is not finite or misshapen.
    """
    check_elements(structure.atomic_numbers.tolist(), settings)
    check_labels(structure, labels)
    graph = build_graph(structure, settings.cutoff, settings.bond_cutoff, settings.soft)
    return Sample(graph, make_targets(structure, labels))


def check_elements(numbers: Iterable[int], settings: GraphSettings) -> None:
    """Raises ValueError if the model does not support one of these atomic numbers."""
    unknown = sorted(set(numbers) - set(settings.elements))
    if unknown:
        names = ", ".join(chemical_symbols[z] if z < 119 else f"Z = {z}" for z in unknown)
        raise ValueError(
            f"the model must support every element, got {names}; increase `num_elements` or remove the structure"
        )


def make_targets(structure: Structure, labels: Labels) -> Targets:
    """Targets of one structure from its checked labels, float64; NaN where there is no label."""
    num_atoms = structure.atomic_numbers.size
    shapes = {"energy": (1,), "forces": (num_atoms, 3), "stress": (1, 3, 3), "magmoms": (num_atoms,)}
    targets = {
        name: torch.from_numpy(np.array(labels[name], dtype=np.float64).reshape(shape))
        if name in labels
        else torch.full(shape, torch.nan, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return Targets(**targets)


def labelled_structures(path: Path | str, keys: LabelKeys = ASE_NAMES) -> Iterator[tuple[ase.Atoms, Structure, Labels]]:
    """The structures of a file with their labels.

    Raises:
        ValueError: an unusable structure; the message names the file and the number of the structure.
    """
    return _with_labels(path, read_structures(path), keys, checked=False)


def _with_labels(
    path: Path | str, structures: Iterable[tuple[ase.Atoms, Structure]], keys: LabelKeys, *, checked: bool
) -> Iterator[tuple[ase.Atoms, Structure, Labels]]:
    for number, (atoms, structure) in enumerate(structures):
        try:
            labels = labels_from_atoms(atoms, keys)
            if checked:
                check_labels(structure, labels)
        except ValueError as error:
            raise ValueError(f"{path}, structure {number}: {error}") from error
        yield atoms, structure, labels


def checked_file(path: Path, keys: LabelKeys) -> Iterator[tuple[ase.Atoms, Structure, Labels]]:
    """As `labelled_structures`, of a file to train on; raises as `labelled`."""
    return labelled(path, read_structures(path), keys)


def labelled(
    path: Path,
    structures: Iterable[tuple[ase.Atoms, Structure]],
    keys: LabelKeys,
    *,
    checked: bool = False,
    option: str = "'data.{}_key'",
) -> Iterator[tuple[ase.Atoms, Structure, Labels]]:
    """The structures of a file with their labels, which are `checked` here or later.

    Args:
        option: what users call the key of a label, for messages.

    Raises:
        ValueError: at the end, if no structure has a label, or none has a label that `keys` names.
    """
    found: Counter[str] = Counter()
    others: Counter[tuple[str, str]] = Counter()
    for atoms, structure, labels in _with_labels(path, structures, keys, checked=checked):
        found.update(labels.keys())
        others.update(possible_labels(atoms))
        yield atoms, structure, labels
    if not found:
        raise ValueError(f"{path} must carry labels (energy, forces, stress or magmoms), but no structure has any")
    for label, key in vars(keys).items():
        if key and not found[label]:
            known = [name for other, name in others if other == label]
            raise ValueError(
                f"{option.format(label)} must name an entry of {path}, but no structure has '{key}'"
                f"{suggestion(key, known)}"
            )


def _samples(path: Path, settings: GraphSettings, first: int) -> Iterator[Sample]:
    """The samples of a file from number `first` on; graphs of those before are not built."""
    for number, (atoms, structure, labels) in enumerate(checked_file(path, settings.keys)):
        if number < first:
            continue
        try:
            if "stress" in labels:
                labels["stress"] = labels["stress"] * settings.stress_scale
            yield replace(make_sample(structure, labels, settings), info=dict(atoms.info))
        except ValueError as error:
            raise ValueError(f"{path}, structure {number}: {error}") from error


class SampleStore(Protocol):
    """Samples by number: the cached graphs of a file (`Store`), or a data store (`uip.data.sharded`)."""

    counts: dict[str, Integers]
    """Number of rows of each sample: "N" atoms, "E" directed edges, "A" angles."""

    def __len__(self) -> int: ...
    def __getitem__(self, k: int) -> Sample: ...
    def read(self, name: str, k: int) -> Tensor | None:
        """One field of sample k."""

    def infos(self) -> Iterator[dict[str, Any]]:
        """Text and numbers of `atoms.info` of each sample, one after the other."""

    def contains(self, element: int) -> NDArray[np.bool_]:
        """Whether each sample has atoms with this atomic number."""

    def num_labels(self, name: str) -> NDArray[np.int64]:
        """Number of labelled values of each sample."""

    def identity(self) -> bytes:
        """Equal for equal contents, to compare data sets."""


class Dataset:
    """Samples of one or several stores, or a part of them, by number.

    Args:
        stores: concatenated.
        chosen: numbers of the samples that belong to this data set; None: all.
        sets: for each store, the number of the set that it belongs to, if several data sets are joined.
        shifts: for each set, what is added to energy labels, (Z,) float64, eV per atom of each element; none: nothing.
    """

    def __init__(
        self,
        stores: Sequence[SampleStore],
        chosen: Integers | None = None,
        *,
        sets: Sequence[int] = (),
        shifts: Sequence[Tensor] = (),
    ) -> None:
        self.stores = list(stores)
        self.sets = list(sets) or [0] * len(self.stores)
        self.shifts = tuple(shifts)
        self.ends = np.cumsum([len(store) for store in self.stores])
        self.chosen = np.arange(int(self.ends[-1]) if self.stores else 0) if chosen is None else chosen

    @staticmethod
    def join(parts: Sequence[Dataset]) -> Dataset:
        """Data sets as one, in which they are the sets 0, 1, ..."""
        sizes = [int(part.ends[-1]) if part.stores else 0 for part in parts]
        starts = np.cumsum([0, *sizes])
        return Dataset(
            [store for part in parts for store in part.stores],
            np.concatenate([part.chosen + start for part, start in zip(parts, starts, strict=False)]),
            sets=[number for number, part in enumerate(parts) for _ in part.stores],
        )

    def __len__(self) -> int:
        return len(self.chosen)

    def _locate(self, number: int) -> tuple[int, int]:
        """Which store has a sample, and its number there."""
        k = int(self.chosen[number])
        store = int(np.searchsorted(self.ends, k, side="right"))
        return store, k - int(self.ends[store]) + len(self.stores[store])

    def __getitem__(self, number: int) -> Sample:
        store, k = self._locate(number)
        sample = self.stores[store][k]
        if not any(self.sets):
            return sample
        energy = sample.targets.energy + self._shift(store, sample.graph.atomic_numbers)
        targets = replace(sample.targets, energy=energy)
        return replace(sample, targets=targets, sets=torch.tensor([self.sets[store]]))

    def _shift(self, store: int, atomic_numbers: Tensor) -> float:
        """What is added to the energy of a structure, eV."""
        return float(self.shifts[self.sets[store]][atomic_numbers - 1].sum()) if self.shifts else 0.0

    def read(self, name: str, number: int) -> Tensor:
        """One field of one sample, without the rest."""
        store, k = self._locate(number)
        value = self.stores[store].read(name, k)
        assert value is not None
        if name != "energy" or not self.shifts:
            return value
        return value + self._shift(store, self.read("atomic_numbers", number))

    def set_numbers(self, numbers: Integers) -> Integers:
        """Number of the set of each of these samples."""
        return np.array(self.sets, dtype=np.int64)[np.searchsorted(self.ends, self.chosen[numbers], side="right")]

    def subset(self, numbers: Integers) -> Dataset:
        """The samples with these numbers."""
        return Dataset(self.stores, self.chosen[numbers], sets=self.sets, shifts=self.shifts)

    def of_set(self, number: int) -> Dataset:
        """The samples of one set, with its stores alone; energy labels as they were read."""
        mine = [k for k, other in enumerate(self.sets) if other == number]
        store = np.searchsorted(self.ends, self.chosen, side="right")
        sizes = np.array([len(store) for store in self.stores])
        moved = np.cumsum([0, *sizes[mine]])[:-1] - (self.ends - sizes)[mine]  # from where stores begin here to there
        parts = [self.chosen[store == k] + move for k, move in zip(mine, moved, strict=True)]
        chosen = np.concatenate(parts) if parts else self.chosen[:0]
        return Dataset([self.stores[k] for k in mine], chosen)

    def shifted(self, shifts: Sequence[Tensor]) -> Dataset:
        """The same samples with other `shifts` of energy labels."""
        return Dataset(self.stores, self.chosen, sets=self.sets, shifts=shifts)

    def info(self, number: int) -> dict[str, Any]:
        """Text and numbers of `atoms.info` of one sample."""
        store, k = self._locate(number)
        return next(islice(self.stores[store].infos(), k, None))

    def info_values(self, key: str) -> list[Any]:
        """`atoms.info[key]` of each sample; None without it. Of a large data set this is all that is kept in memory."""
        every = [info.get(key) for store in self.stores for info in store.infos()]
        return [every[k] for k in self.chosen]

    def counts(self, letter: str) -> Integers:
        """Number of rows of each sample: "N" atoms, "E" directed edges, "A" angles."""
        return np.concatenate([store.counts[letter] for store in self.stores])[self.chosen]

    def contains(self, element: int) -> NDArray[np.bool_]:
        """Whether each sample has atoms with this atomic number, (B,)."""
        return np.concatenate([store.contains(element) for store in self.stores])[self.chosen]

    def num_labels(self, name: str) -> int:
        """Number of labelled values of all samples, for example three forces per atom."""
        return int(np.concatenate([store.num_labels(name) for store in self.stores])[self.chosen].sum())

    def digest(self) -> str:
        """Hash of the choice and contents of all samples, to compare data sets."""
        total = hashlib.sha256(self.chosen.tobytes())
        for store in self.stores:
            total.update(store.identity())
        if any(self.sets):
            total.update(str(self.sets).encode())
        return total.hexdigest()[:16]

    def batch(self, numbers: Iterable[int], change: Callable[[int, Sample], Sample] | None = None) -> Sample:
        """The samples with these numbers as one batch, float64; `change(number, sample)` is applied to each sample."""
        samples = [self[int(number)] for number in numbers]
        if change is not None:
            samples = [change(int(number), sample) for number, sample in zip(numbers, samples, strict=True)]
        sets = [sample.sets for sample in samples if sample.sets is not None]
        targets = join_targets(sample.targets for sample in samples)
        return Sample(batch([s.graph for s in samples]), targets, sets=torch.cat(sets) if sets else None)


def open_store(path: Path | str, settings: GraphSettings, cache: Path) -> Store:
    """The graphs of a file, from the cache if present; otherwise they are built and cached.

    One process builds, others that want the same graphs wait until it is done. The cache key covers the content of the
    file and all settings of its graphs.
    """
    path = existing_file(path)
    folder = cache / _key(path, settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="ase")
        build_store(folder, partial(_samples, path, settings))
    return Store(folder)


def _key(path: Path, settings: GraphSettings) -> str:
    text = json.dumps({"version": CACHE_VERSION, **asdict(settings)})
    total = hashlib.sha256(text.encode())
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return f"{path.stem}-{total.hexdigest()[:16]}"
