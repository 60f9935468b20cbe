"""What the `uip` command prints and writes: tables of predictions, errors and data sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# a file or a pipe has no width of its own: never cut a table there
console = Console(width=None if sys.stdout.isatty() else 160)


def with_results(atoms: Any, result: Any) -> Any:
    """A copy of a structure with its prediction, as ASE writes it."""
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    from uip.inference.committee import deviations
    from uip.inference.uncertainty import uncertainties

    values = {name: result[name] for name in ("forces", "magmoms") if name in result}
    values["energy"] = float(result["energy"])
    if "stress" in result and np.isfinite(result["stress"]).all():
        values["stress"] = full_3x3_to_voigt_6_stress(result["stress"])
    copy = atoms.copy()
    for name, value in (deviations(result) | uncertainties(result)).items():
        (copy.info if isinstance(value, float) else copy.arrays)[name] = value
    copy.calc = SinglePointCalculator(copy, **values)
    return copy


def prediction_row(frame: Any, result: Any) -> dict[str, Any]:
    """Scalars of one prediction; None where the model or the structure has none."""
    import numpy as np

    from uip.inference.committee import deviations
    from uip.inference.uncertainty import uncertainties
    from uip.units import EV_PER_A3_TO_GPA

    pressure = -np.trace(result["stress"]) / 3 * EV_PER_A3_TO_GPA if "stress" in result else np.nan
    return {
        "file": frame.file,
        "number": frame.number,
        "formula": frame.atoms.get_chemical_formula(),
        "atoms": len(frame.atoms),
        "energy": float(result["energy"]),
        "energy_per_atom": float(result["energy"]) / len(frame.atoms),
        "max_force": float(np.linalg.norm(result["forces"], axis=1).max()),
        "pressure": None if np.isnan(pressure) else float(pressure),
        "magmom": float(result["magmoms"].sum()) if "magmoms" in result else None,
        **{
            name: value
            for name, value in (deviations(result) | uncertainties(result)).items()
            if isinstance(value, float)
        },
    }


COLUMNS = {
    "energy": ("E / eV", ".4f"),
    "energy_per_atom": ("E / eV/atom", ".5f"),
    "max_force": ("max F / eV/A", ".4f"),
    "pressure": ("P / GPa", ".3f"),
    "magmom": ("sum magmoms / mu_B", ".3f"),
}
TRUST_COLUMNS = {
    "energy_deviation": ("dev E / eV", ".4f"),
    "max_force_deviation": ("max dev F / eV/A", ".4f"),
    "energy_uncertainty": ("sigma E / eV", ".4f"),
}
"""Of a committee, or of a calibrated model, after the others."""


def print_predictions(rows: list[dict[str, Any]], title: str, *, as_json: bool = False) -> None:
    """One line a structure; in a narrow terminal names are folded, numbers are not."""
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    columns = COLUMNS | {name: column for name, column in TRUST_COLUMNS.items() if name in rows[0]}
    table = Table(title=title)
    table.add_column("file", overflow="fold")
    table.add_column("formula", overflow="fold")
    table.add_column("atoms", min_width=5, justify="right")
    cells = {
        name: ["" if row[name] is None else format(row[name], form) for row in rows]
        for name, (_, form) in columns.items()
    }
    for name, (heading, _) in columns.items():
        table.add_column(heading, min_width=max((len(cell) for cell in cells[name]), default=1), justify="right")
    for number, row in enumerate(rows):
        numbers = (cells[name][number] for name in columns)
        table.add_row(Path(row["file"]).name, row["formula"], str(row["atoms"]), *numbers)
    console.print(table)


def print_relaxed(rows: list[dict[str, Any]], title: str, *, as_json: bool = False) -> None:
    """One line a relaxed structure, or the same as JSON."""
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("file", "formula", "atoms", "steps", title=title)
    for heading in ("E / eV", "change of E / eV", "max F / eV/A", "change of V / %"):
        table.add_column(heading, justify="right")
    for row in rows:
        steps = str(row["steps"]) if row["converged"] else f"{row['steps']}, not converged"
        numbers = (f"{row['energy']:.4f}", f"{row['energy_change']:.4f}", f"{row['max_force']:.4f}")
        change = f"{100 * row['volume_change']:+.2f}"
        table.add_row(Path(row["file"]).name, row["formula"], str(row["atoms"]), steps, *numbers, change)
    console.print(table)


def print_selected(rows: list[dict[str, Any]], title: str, *, as_json: bool = False) -> None:
    """One line a selected structure, in the order of choice, or the same as JSON."""
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    score = "energy_uncertainty_per_atom" if "energy_uncertainty_per_atom" in rows[0] else "max_force_deviation"
    heading = {"energy_uncertainty_per_atom": "sigma E / eV/atom", "max_force_deviation": "max dev F / eV/A"}[score]
    table = Table("file", "structure", "formula", heading, "distance", title=title)
    for row in rows:
        numbers = ("" if row[name] is None else f"{row[name]:.4f}" for name in (score, "distance"))
        table.add_row(Path(row["file"]).name, str(row["number"]), row["formula"], *numbers)
    console.print(table)


def print_description(found: Any, title: str) -> None:
    """What `uip.data.describe` found in a data set."""
    from uip.data.describe import OUTLIER, SHOWN

    table = Table("label", "structures", "min", "mean", "max", "unit", "outliers", title=title)
    for name, unit in SHOWN.items():
        values = found.flat(name)
        numbers = (
            [f"{number:.4g}" for number in (values.min(), values.mean(), values.max())] if values.size else [""] * 3
        )
        table.add_row(
            name, f"{found.labelled[name]} of {found.structures}", *numbers, unit, str(len(found.outliers(name)))
        )
    console.print(table)
    sizes = f"{min(found.atoms)} to {max(found.atoms)} atoms, {sum(found.atoms)} in all"
    elements = ", ".join(f"{name} {count}" for name, count in found.elements.most_common())
    lines = [f"{found.structures} structures ({found.periodic} periodic), {sizes}", f"structures with: {elements}"]
    if found.duplicates:
        late, first = found.duplicates[0]
        lines.append(f"{len(found.duplicates)} duplicates, the first: structure {late} equals structure {first}")
    for name in SHOWN:
        others = [f"{entry} ({count})" for (label, entry), count in found.possible.items() if label == name]
        if others:
            lines.append(f"entries that could be {name} ({name}_key): {', '.join(others)}")
    for name in SHOWN:
        far = found.outliers(name)
        if far:
            shown = ", ".join(map(str, far[:10]))
            lines.append(f"{name} more than {OUTLIER:g} interquartile ranges away in structures {shown}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_reliability(found: Any, title: str, *, as_json: bool = False) -> None:
    """How predicted uncertainties and real errors of energies agree, or the same as JSON."""
    from uip.inference.metrics import reliability_row

    if as_json:
        json.dump(reliability_row(found), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("energy uncertainty", "value", "best", title=title)
    table.add_row("Spearman correlation with |error|", f"{found.spearman:.3f}", "near 1")
    table.add_row("calibration slope", f"{found.slope:.3f}", "1")
    table.add_row("miscalibration", f"{found.miscalibration:.3f}", "0")
    console.print(table)


def print_errors(table: list[Any], title: str, plot: Path, found: Any = None, *, as_json: bool) -> None:
    """Errors by property and group, and the reliability of uncertainties, or the same as JSON."""
    from uip.inference.metrics import ALL, as_json_rows, reliability_row

    if as_json:
        rows = [*as_json_rows(table), *([] if found is None else [reliability_row(found)])]
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    shown = Table("group", "property", "n", "MAE", "RMSE", "offset", "max", "slope", "unit", title=title)
    for row in table:
        numbers = (row.mae, row.rmse, row.offset, row.max)
        shown.add_row(
            row.group,
            row.property,
            str(row.structures),
            *(f"{number:.4g}" for number in numbers),
            f"{row.slope:.3f}",
            row.unit,
        )
    console.print(shown)
    offset = next((row for row in table if row.group == ALL and row.property == "energy"), None)
    if offset is not None and abs(offset.offset) > 0.5 * offset.mae:
        console.print(
            f"Predicted energies differ from the labels by {offset.offset:+.0f} meV/atom on average, and by "
            f"{offset.mae_without_offset:.0f} meV/atom (MAE) after this offset is taken away: labels and model "
            "probably have different energy references (corrections, functional, pseudopotentials).",
            soft_wrap=True,
        )
    if found is not None:
        print_reliability(found, f"{found.structures} structures")
    console.print(f"parity plot: {plot}", markup=False, highlight=False, soft_wrap=True)
