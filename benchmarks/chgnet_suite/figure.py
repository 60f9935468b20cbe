"""docs/figures/chgnet_speed.png from the results of the suite: time per atom, and speed against chgnet 0.4.2.

python benchmarks/chgnet_suite/figure.py        (make bench-docs)
"""

from __future__ import annotations

import json
from typing import Any

from document import PEER, RESULTS, ROOT, indexed, shared
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PATH = ROOT / "docs" / "figures" / "chgnet_speed.png"
KINDS = {"Si": "-", "MgO": "--"}


def time_per_atom(axes: Axes, results: dict[str, Any]) -> None:
    """Processor time of one thread against the number of atoms; a colour for each way, a style for each crystal."""
    rows = [row for row in results["step"] if row["threads"] == 1]
    for number, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        for kind, style in KINDS.items():
            found = sorted((r["atoms"], 1e3 * min(r["cpu_ms"]) / r["atoms"]) for r in rows
                           if r["way"] == way and r["structure"].startswith(kind))  # fmt: skip
            label = way if kind == "Si" else None
            axes.plot(*zip(*found, strict=True), f"o{style}", color=f"C{number}", markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="processor time / us per atom and step")
    axes.legend(title="Si; dashed: MgO", fontsize="small", title_fontsize="small")


def speed(axes: Axes, results: dict[str, Any]) -> None:
    """Ratios of best times, one and two threads."""
    at, names = indexed(results), shared(results)
    bars = ((1, "cpu_ms", "one thread, processor time"), (2, "wall_ms", "two threads, wall time"))
    for place, (threads, key, label) in enumerate(bars):
        pairs = [(at.get((name, PEER, threads)), at.get((name, results["main"], threads))) for name in names]
        ratios = [min(a[key]) / min(b[key]) if a and b else 0.0 for a, b in pairs]
        drawn = axes.bar([k + 0.4 * place for k in range(len(names))], ratios, 0.4, label=label)
        axes.bar_label(drawn, fmt="%.1f", fontsize="x-small")
    axes.set(ylabel=f"times faster than {PEER} ({results['main']})")
    axes.set_xticks([k + 0.2 for k in range(len(names))], names, fontsize="small")
    axes.margins(y=0.25)
    axes.legend(fontsize="small", loc="upper left")


def main() -> None:
    results = json.loads(RESULTS.read_text())
    canvas = Figure(figsize=(10, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    time_per_atom(left, results)
    speed(right, results)
    canvas.suptitle(f"CHGNet 0.3.0, float32, {results['machine']['processor']}, {results['kernels'][0]}", fontsize=10)
    canvas.savefig(PATH, dpi=120)


if __name__ == "__main__":
    main()
