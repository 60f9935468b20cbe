"""Statistics of a data set: counts, elements, labels, ranges, outliers and duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import ase
import numpy as np
from ase.data import chemical_symbols

from uip.data.label_checks import Summary
from uip.data.labels import LABELS, Labels, possible_labels
from uip.data.split import reduced_formula
from uip.graph.structure import Structure
from uip.schema import Floats
from uip.units import EV_PER_A3_TO_GPA

SHOWN = {"energy": "eV/atom", "forces": "eV/A", "stress": "GPa", "magmoms": "mu_B"}
OUTLIER = 10.0
"""Distance from the quartiles, in interquartile ranges, beyond which a structure is an outlier."""


@dataclass
class Description:
    """Statistics of a file, for `uip data`."""

    structures: int = 0
    atoms: list[int] = field(default_factory=list)
    """Of each structure."""
    volumes: list[float] = field(default_factory=list)
    """A^3; NaN for structures without three cell vectors."""
    formulas: list[str] = field(default_factory=list)
    elements: Counter[str] = field(default_factory=Counter)
    """Number of structures with each element."""
    labelled: Counter[str] = field(default_factory=Counter)
    """Number of structures with each label."""
    possible: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of structures with each entry that could be a label, (label, entry)."""
    values: dict[str, list[Floats]] = field(default_factory=dict)
    """For each label: the values of each structure, flat, in the units of `SHOWN`; empty without the label."""
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    """Numbers of equal structures: (later, first)."""
    periodic: int = 0

    @property
    def summary(self) -> Summary:
        """Input of the label checks."""
        stress = [part.reshape(3, 3).trace() / 3 if part.size else np.nan for part in self.values["stress"]]
        energy = [part[0] if part.size else np.nan for part in self.values["energy"]]
        arrays = (np.array(values, dtype=np.float64) for values in (self.atoms, self.volumes, energy, stress))
        return Summary(self.formulas, *arrays)

    def flat(self, name: str) -> Floats:
        """All values of a label."""
        parts = self.values.get(name, [])
        return np.concatenate(parts) if parts else np.zeros(0)

    def outliers(self, name: str) -> list[int]:
        """Numbers of structures with an outlier among their values."""
        largest = np.array([np.abs(part).max() if part.size else np.nan for part in self.values.get(name, [])])
        known = largest[np.isfinite(largest)]
        if known.size < 8:
            return []
        low, high = np.quantile(known, [0.25, 0.75])
        reach = OUTLIER * max(high - low, 1e-9)
        return [int(k) for k in np.flatnonzero((largest > high + reach) | (largest < low - reach))]


def describe(structures: Iterable[tuple[ase.Atoms, Structure, Labels]]) -> Description:
    """Statistics of a data set, read once; see `uip.data.dataset.labelled_structures`."""
    result = Description(values={name: [] for name in LABELS})
    seen: dict[int, int] = {}
    for number, (atoms, structure, labels) in enumerate(structures):
        numbers = structure.atomic_numbers
        result.structures += 1
        result.atoms.append(numbers.size)
        volume = abs(np.linalg.det(structure.cell))
        result.volumes.append(float(volume) if volume > 1e-9 else np.nan)
        result.formulas.append(reduced_formula(numbers))
        result.periodic += bool(structure.pbc.all())
        result.elements.update(chemical_symbols[z] for z in set(numbers.tolist()))
        result.labelled.update(labels.keys())
        result.possible.update(possible_labels(atoms))
        for name in LABELS:
            result.values[name].append(_shown(name, labels[name], numbers.size) if name in labels else np.zeros(0))
        key = (numbers.tobytes(), structure.positions.round(6).tobytes(), structure.cell.round(6).tobytes())
        if seen.setdefault(hash(key), number) != number:
            result.duplicates.append((number, seen[hash(key)]))
    return result


def _shown(name: str, value: Floats, num_atoms: int) -> Floats:
    scale = {"energy": 1.0 / num_atoms, "stress": EV_PER_A3_TO_GPA}.get(name, 1.0)
    return np.ravel(value) * scale


def histograms(description: Description, path: Path, title: str) -> None:
    """Atoms per structure and the values of every label, as a figure."""
    from matplotlib.figure import Figure

    panels = [("atoms", "", np.array(description.atoms, dtype=np.float64))]
    panels += [(name, unit, description.flat(name)) for name, unit in SHOWN.items() if description.labelled[name]]
    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    figure.suptitle(title)
    for number, (name, unit, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.hist(values[np.isfinite(values)], bins=60)
        axes.set(xlabel=f"{name} / {unit}" if unit else name, yscale="log")
    figure.savefig(path, dpi=120)
