"""Learning curves of a run: collected line by line of the log, so that drawing does not read the log again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = (("loss", ""), ("energy", "meV/atom"), ("forces", "meV/A"), ("stress", "GPa"), ("magmoms", "mu_B"))
STYLES: dict[str, dict[str, Any]] = {"train": {"alpha": 0.4}, "validation": {"marker": "o", "markersize": 3}}
LIMIT = 2000
"""Points of a curve; beyond twice as many, neighbours are averaged."""


class Curve:
    """Values against hours; each point is the mean of `width` of them."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.width = 1
        self.rest: list[tuple[float, float]] = []

    def add(self, hours: float, value: float) -> None:
        """One value."""
        self.rest.append((hours, value))
        if len(self.rest) < self.width:
            return
        self.points.append(_mean(self.rest))
        self.rest = []
        if len(self.points) == 2 * LIMIT:
            self.points = [_mean(self.points[k : k + 2]) for k in range(0, 2 * LIMIT, 2)]
            self.width *= 2


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(hours for hours, _ in points) / len(points), sum(value for _, value in points) / len(points)


class Curves:
    """Loss and errors against hours of training, training and validation."""

    def __init__(self) -> None:
        self.curves = {(name, kind): Curve() for name, _ in SHOWN for kind in STYLES}

    def add(self, line: Mapping[str, Any]) -> None:
        """The numbers in a line of the log."""
        for (name, kind), curve in self.curves.items():
            if line["kind"] == kind and line.get(name) is not None:
                curve.add(line["seconds"] / 3600, line[name])

    def draw(self, image: Path) -> None:
        """Draw all curves that have points, to a PNG."""
        from matplotlib.figure import Figure

        shown = [(name, unit) for name, unit in SHOWN if any(self.curves[name, kind].points for kind in STYLES)]
        figure = Figure(figsize=(3.6 * max(len(shown), 1), 3.4), layout="constrained")
        for number, (name, unit) in enumerate(shown):
            axes = figure.add_subplot(1, len(shown), number + 1)
            for kind, style in STYLES.items():
                points = self.curves[name, kind].points
                axes.plot([hours for hours, _ in points], [value for _, value in points], label=kind, **style)
            axes.set(xlabel="hours", ylabel=f"{name} / {unit}" if unit else name, yscale="log")
            axes.legend(fontsize="small")
        figure.savefig(image, dpi=120)
