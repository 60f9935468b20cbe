"""How far predictions are from reference labels: error tables by property and by group, and the parity plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import ase
import numpy as np

from uip.data.labels import Labels
from uip.inference.evaluator import Prediction
from uip.inference.reliability import Reliability
from uip.schema import Floats
from uip.units import EV_PER_A3_TO_GPA

ALL = "all"


@dataclass(frozen=True)
class Property:
    """What is compared, in the unit of the table."""

    name: str
    unit: str
    scale: float


PROPERTIES = (
    Property("energy", "meV/atom", 1e3),
    Property("forces", "meV/A", 1e3),
    Property("stress", "GPa", EV_PER_A3_TO_GPA),
    Property("magmoms", "mu_B", 1.0),
)


@dataclass(frozen=True)
class Errors:
    """Errors of one property in one group, in `unit`; error = prediction - reference."""

    group: str
    property: str
    unit: str
    structures: int
    values: int
    mae: float
    rmse: float
    offset: float
    """Mean error."""
    mae_without_offset: float
    """MAE after the mean error is taken away: what is left when two energy scales differ by a constant per atom."""
    max: float
    slope: float
    """Of predictions against references through their means; NaN if all references are equal."""


@dataclass(frozen=True)
class Pairs:
    """Reference and predicted values of one property of one structure, flat, in the table's unit."""

    reference: Floats
    prediction: Floats


def compare(labels: Labels, prediction: Prediction, num_atoms: int) -> dict[str, Pairs]:
    """The properties that have a label, side by side. Energies per atom; stress as nine components, as published
    errors are counted."""
    pairs = {}
    for item in PROPERTIES:
        if item.name not in labels or item.name not in prediction:
            continue
        reference, predicted = (_flat(item, values[item.name], num_atoms) for values in (labels, prediction))
        if np.isfinite(predicted).all():
            pairs[item.name] = Pairs(reference, predicted)
    return pairs


def _flat(item: Property, value: Floats, num_atoms: int) -> Floats:
    if item.name == "energy":
        value = value / num_atoms
    return np.ravel(value) * item.scale


def group_of(atoms: ase.Atoms, key: str | None) -> str:
    """The group of a structure: "formula", "elements", "size", or the value of an info key.

    Raises:
        ValueError: the structure has no such info key.
    """
    if key is None:
        return ALL
    if key == "formula":
        return str(atoms.get_chemical_formula())
    if key == "elements":
        return "-".join(sorted(set(atoms.get_chemical_symbols())))
    if key == "size":
        low = 2 ** int(np.log2(len(atoms)))
        return f"{low}-{2 * low - 1} atoms"
    if key not in atoms.info:
        raise ValueError(
            f"`--group-by` must be 'formula', 'elements', 'size' or an info key of every structure; "
            f"'{key}' is missing from a structure that has: {', '.join(sorted(atoms.info)) or 'none'}"
        )
    return str(atoms.info[key])


def error_table(compared: Iterable[tuple[str, Mapping[str, Pairs]]]) -> list[Errors]:
    """Errors of all structures together, then of each group; `compared`: (group, pairs by property)."""
    collected: dict[tuple[str, str], list[Pairs]] = {}
    for group, pairs in compared:
        for name, pair in pairs.items():
            collected.setdefault((ALL, name), []).append(pair)
            if group != ALL:
                collected.setdefault((group, name), []).append(pair)
    groups = sorted({group for group, _ in collected}, key=lambda group: (group != ALL, group))
    return [
        _errors(group, item, collected[group, item.name])
        for group in groups
        for item in PROPERTIES
        if (group, item.name) in collected
    ]


def _errors(group: str, item: Property, pairs: list[Pairs]) -> Errors:
    reference = np.concatenate([pair.reference for pair in pairs])
    error = np.concatenate([pair.prediction for pair in pairs]) - reference
    offset = float(error.mean())
    centred = reference - reference.mean()
    spread = float(centred @ centred)
    return Errors(
        group=group,
        property=item.name,
        unit=item.unit,
        structures=len(pairs),
        values=error.size,
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        offset=offset,
        mae_without_offset=float(np.abs(error - offset).mean()),
        max=float(np.abs(error).max()),
        slope=1.0 + float(centred @ error) / spread if spread > 0 else float("nan"),
    )


def as_json_rows(table: list[Errors]) -> list[dict[str, object]]:
    """The table as plain values; NaN becomes None."""
    return [
        {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in asdict(row).items()}
        for row in table
    ]


def reliability_row(found: Reliability) -> dict[str, object]:
    """As plain values; NaN becomes None."""
    values = {
        key: None if isinstance(value, float) and np.isnan(value) else value for key, value in asdict(found).items()
    }
    return {"group": ALL, "property": "energy_uncertainty", **values}


def parity_plot(pairs: Sequence[Mapping[str, Pairs]], table: list[Errors], path: Path, title: str) -> None:
    """Predictions against references, one panel a property, written to `path` (PNG, SVG or PDF)."""
    from matplotlib.figure import Figure

    items = [item for item in PROPERTIES if any(item.name in pair for pair in pairs)]
    figure = Figure(figsize=(4.2 * max(len(items), 1), 4.2), layout="constrained")
    figure.suptitle(title)
    for number, item in enumerate(items):
        axes = figure.add_subplot(1, len(items), number + 1)
        present = [pair[item.name] for pair in pairs if item.name in pair]
        reference = np.concatenate([pair.reference for pair in present])
        prediction = np.concatenate([pair.prediction for pair in present])
        row = next(row for row in table if row.group == ALL and row.property == item.name)
        axes.hexbin(reference, prediction, gridsize=120, bins="log", mincnt=1, cmap="viridis")
        axes.locator_params(nbins=5)
        low, high = min(reference.min(), prediction.min()), max(reference.max(), prediction.max())
        axes.plot([low, high], [low, high], color="0.4", linewidth=0.8)
        axes.set(xlabel=f"reference {item.name} / {item.unit}", ylabel=f"predicted {item.name} / {item.unit}")
        axes.set_title(f"MAE {row.mae:.3g}  RMSE {row.rmse:.3g}  offset {row.offset:+.3g}", fontsize="medium")
    figure.savefig(path, dpi=150)
