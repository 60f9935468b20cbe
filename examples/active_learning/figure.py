"""Draws errors against the number of labels: python figure.py RESULTS.json ... -o figure.png

Several results, of runs with different `--seed`, in files or in lists: thin lines are runs, thick lines their means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

TITLES = {"committee": "selected by the committee", "random": "selected at random"}
LABELS = {"forces": "force error on test structures, eV/A (RMSE)", "energy": "energy error, meV/atom (MAE)"}


def draw(results: list[dict[str, Any]]) -> Figure:
    """A panel each for forces and energies."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    for axes, (quantity, label) in zip(figure.subplots(1, 2), LABELS.items(), strict=True):
        for number, (way, title) in enumerate(TITLES.items()):
            labels = [point["labels"] for point in results[0][way]]
            errors = np.array([[point[quantity] for point in result[way]] for result in results])
            axes.plot(labels, errors.T, color=f"C{number}", linewidth=0.6, alpha=0.6)
            axes.plot(labels, errors.mean(0), color=f"C{number}", linewidth=2.0, marker="o", label=title)
        axes.set(xlabel="labelled structures", ylabel=label, yscale="log")
        axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    read = [json.loads(path.read_text()) for path in options.results]
    results = [result for one in read for result in (one if isinstance(one, list) else [one])]
    draw(results).savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
