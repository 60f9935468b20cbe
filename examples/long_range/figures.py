"""Draws the figures of docs/long_range.md from docs/figures/long_range.json, and prints its tables.

    python figures.py

Points are means over seeds, bars their smallest and largest values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import RANGES, RESULTS, TESTS
from train import STRUCTURES, VARIANTS

Result = dict[str, Any]


def chosen(results: Sequence[Result], data: str, variant: str, **others: Any) -> list[Result]:
    """Results of a variant with all structures and initial elements of size 1, unless `others` say otherwise."""
    wanted = {"data": data, "variant": variant, "structures": STRUCTURES[data], "element_scale": 1.0, **others}
    return [result for result in results if all(result[key] == value for key, value in wanted.items())]


def spread(results: Sequence[Result], value: Callable[[Result], float]) -> tuple[float, float, float]:
    """Mean, smallest and largest value."""
    values = [value(result) for result in results]
    return float(np.mean(values)), min(values), max(values)


def as_text(results: Sequence[Result], value: Callable[[Result], float]) -> str:
    """Mean, and half of the range if there are several seeds."""
    if not results:
        return ""
    mean, least, most = spread(results, value)
    return f"{mean:.0f}" if len(results) == 1 else f"{mean:.0f} +- {(most - least) / 2:.0f}"


def draw(axes: Axes, x: Sequence[float], points: Sequence[tuple[float, float, float]], **style: Any) -> None:
    """A line with bars."""
    means, least, most = (np.array(values) for values in zip(*points, strict=True))
    axes.errorbar(x, means, yerr=[means - least, most - means], marker="o", markersize=4, capsize=2, **style)


def against_distance(axes: Axes, results: Sequence[Result]) -> None:
    """Force error of pairs, and the size of forces."""
    for number, variant in enumerate(VARIANTS):
        found = chosen(results, "pairs", variant)
        if not found:
            continue
        bins = found[0]["distance"]["bins"]
        centres = [(one["from"] + one["to"]) / 2 for one in bins]
        points = [spread(found, lambda r, k=k: r["distance"]["bins"][k]["forces"]) for k in range(len(bins))]
        draw(axes, centres, points, label=variant, color=f"C{number}")
    axes.plot(centres, [one["size"] for one in bins], "k:", label="size of forces")
    for at, text in ((5.0, "cutoff"), (10.0, "end of training")):
        axes.axvline(at, color="0.8", zorder=0)
        axes.text(at, 0.02, f" {text}", transform=axes.get_xaxis_transform(), fontsize="x-small", color="0.4")
    axes.set(xlabel="distance / A", ylabel="force error / (meV/A)", xscale="log", yscale="log", title="pairs")
    axes.set_xticks([3, 5, 10, 25], ["3", "5", "10", "25"])
    axes.minorticks_off()
    axes.legend(fontsize="small")


def box_sizes(axes: Axes, results: Sequence[Result]) -> None:
    """Force error of random charges against the number of ions in the box."""
    sets = {16: "16", 32: "test", 64: "64"}
    for number, variant in enumerate(VARIANTS):
        found = chosen(results, "random_charges", variant)
        if found:
            points = [spread(found, lambda r, name=name: r["errors"][name]["forces"]) for name in sets.values()]
            draw(axes, list(sets), points, label=variant, color=f"C{number}")
    axes.set(xlabel="ions in the box; 32: trained", ylabel="force error / (meV/A)", xscale="log", yscale="log")
    axes.set_xticks(list(sets), [str(size) for size in sets])
    axes.set_yticks([200, 500, 1000], ["200", "500", "1000"])
    axes.minorticks_off()
    axes.set_title("random charges")
    axes.legend(fontsize="small")


def learning_curve(axes: Axes, results: Sequence[Result]) -> None:
    """Force error of random charges against the number of training structures, equal numbers of steps."""
    for number, variant in enumerate(VARIANTS):
        sizes = sorted({r["structures"] for r in results if r["data"] == "random_charges" and r["variant"] == variant})
        sets = [(size, chosen(results, "random_charges", variant, structures=size)) for size in sizes]
        points = [spread(found, lambda r: r["errors"]["test"]["forces"]) for _, found in sets]
        if points:
            draw(axes, sizes, points, label=variant, color=f"C{number}")
    axes.set(xlabel="training structures", ylabel="force error / (meV/A)", xscale="log", yscale="log")
    axes.set_xticks([125, 250, 500], ["125", "250", "500"])
    axes.minorticks_off()
    axes.set_title("random charges")
    axes.legend(fontsize="small")


def parity(axes: Axes, results: Sequence[Result], data: str) -> None:
    """Force components of some test structures, seed 0."""
    for number, variant in enumerate(VARIANTS):
        for result in chosen(results, data, variant, seed=0):
            points = result["parity"]
            axes.plot(points["label"], points["predicted"], ".", markersize=3, label=variant, color=f"C{number}")
    axes.axline((0, 0), slope=1.0, color="0.7", zorder=0)
    axes.set(xlabel="label / (eV/A)", ylabel="prediction / (eV/A)", title=data.replace("_", " "))
    axes.legend(fontsize="small")


def print_tables(results: Sequence[Result]) -> None:
    """Rows of the tables in docs/long_range.md."""
    for scale in (1.0, 1e-3):
        print(f"\nrandom charges, element_scale {scale:g}: forces, energy of 32; forces of 16, 64")
        for variant in VARIANTS:
            found = chosen(results, "random_charges", variant, element_scale=scale)
            cells = [as_text(found, lambda r, n=name: r["errors"][n]["forces"]) for name in TESTS["random_charges"]]
            cells.insert(1, as_text(found, lambda r: r["errors"]["test"]["energy"]))
            print(f"| {variant} | {' | '.join(cells)} |")
    for kind in next(r for r in results if r["data"] == "pairs")["distance"]["ranges"][next(iter(RANGES))]:
        print(f"\npairs, {kind}: {', '.join(RANGES)}")
        for variant in VARIANTS:
            found = chosen(results, "pairs", variant)
            cells = [as_text(found, lambda r, n=n, k=kind: r["distance"]["ranges"][n][k]["forces"]) for n in RANGES]
            print(f"| {variant} | {' | '.join(cells)} |")
        sizes = [found[0]["distance"]["ranges"][name][kind]["size"] for name in RANGES] if found else []
        print(f"| size of forces | {' | '.join(f'{size:.0f}' for size in sizes)} |")


def save(figure: Figure, name: str) -> None:
    figure.savefig(Path(RESULTS).with_name(f"{name}.png"), dpi=100)


def main() -> None:
    """The figures and the tables; a learning curve if there are runs of several sizes."""
    results = json.loads(RESULTS.read_text())
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    against_distance(left, results)
    box_sizes(right, results)
    save(figure, "long_range")
    if len({result["structures"] for result in results if result["data"] == "random_charges"}) > 1:
        figure = Figure(figsize=(4.5, 4), layout="constrained")
        learning_curve(figure.subplots(), results)
        save(figure, "long_range_learning")
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, data in zip(figure.subplots(1, 2), STRUCTURES, strict=True):
        parity(axes, results, data)
    save(figure, "long_range_parity")
    print_tables(results)


if __name__ == "__main__":
    main()
