"""Relaxations of structures of MPtrj: `uip.relax` against the StructOptimizer of chgnet 0.4.2.

    make bench-env
    python benchmarks/relax.py --data mptrj.xyz --output benchmarks/results/relax.json
    python benchmarks/relax.py --page                     # writes the table of docs/relax.md from these results

Both relax atoms and cell with ASE's FIRE and FrechetCellFilter, CHGNet 0.3.0, float32, one thread, the same structures
in turns in one process. Times are processor times, without the loading of models. The peer relaxes the first
`--peer-count` structures. Structures are drawn at random among those with up to `--max-atoms` atoms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "relax.json", ROOT / "docs" / "relax.md"
BEGIN, END = "<!-- benchmarks/relax.py -->", "<!-- end -->"

Relax = Callable[[Atoms], dict[str, Any]]


def draw(path: Path, count: int, max_atoms: int, seed: int) -> list[tuple[int, Atoms]]:
    """Structures with their numbers in the file."""
    frames = [(k, atoms) for k, atoms in enumerate(ase.io.read(path, ":")) if len(atoms) <= max_atoms]
    chosen = np.random.default_rng(seed).choice(len(frames), min(count, len(frames)), replace=False)
    return [frames[k] for k in chosen]


def ours(fmax: float, steps: int) -> Relax:
    from uip import Calculator
    from uip.relax import relax

    calculator = Calculator("chgnet-0.3.0")

    def work(atoms: Atoms) -> dict[str, Any]:
        found = relax(atoms, calculator, cell=True, fmax=fmax, steps=steps)
        return {
            "converged": found.converged,
            "steps": found.steps,
            "energy": float(found.atoms.get_potential_energy()) / len(atoms),
            "max_force": found.max_force,
        }

    return work


def peer(fmax: float, steps: int) -> Relax:
    from chgnet.model import StructOptimizer

    optimizer = StructOptimizer(optimizer_class="FIRE", use_device="cpu")

    def work(atoms: Atoms) -> dict[str, Any]:
        run = optimizer.relax(atoms.copy(), fmax=fmax, steps=steps, relax_cell=True, verbose=False)["trajectory"]
        count = len(run.energies) - 1
        # the optimiser stops early for one reason alone
        return {"converged": count < steps, "steps": count, "energy": float(run.energies[-1]) / len(atoms)}

    return work


def timed(work: Relax, atoms: Atoms) -> dict[str, Any]:
    """Processor time in seconds, with what `work` returns; or the message of its failure."""
    start = time.process_time()
    try:
        found = work(atoms)
    except (ValueError, FloatingPointError) as error:
        return {"failed": str(error)}
    return {**found, "seconds": time.process_time() - start}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Results of all structures."""
    frames = draw(options.data, options.count, options.max_atoms, options.seed)
    ways = {"uip": ours(options.fmax, options.steps)}
    if options.peer_count:
        ways["chgnet"] = peer(options.fmax, options.steps)
    for work in ways.values():
        work(frames[0][1])  # warm-up
    rows = []
    for place, (number, atoms) in enumerate(frames):
        row: dict[str, Any] = {"number": number, "formula": atoms.get_chemical_formula(), "atoms": len(atoms)}
        for name, work in ways.items():
            if name == "uip" or place < options.peer_count:
                row[name] = timed(work, atoms)
        print(json.dumps(row), flush=True)
        rows.append(row)
    names = ("count", "peer_count", "max_atoms", "seed", "fmax", "steps")
    return {"torch": torch.__version__, **{name: getattr(options, name) for name in names}, "structures": rows}


def table(results: dict[str, Any]) -> str:
    """The results in a few lines."""
    rows = results["structures"]
    shared = [row for row in rows if "chgnet" in row]
    lines = [
        "| | structures | converged | steps, median and largest | s / structure | ms / step |",
        "|---|---|---|---|---|---|",
        _line("uip", [row["uip"] for row in rows]),
    ]
    if not shared:
        return "\n".join(lines)
    lines.append(_line("uip, those of chgnet", [row["uip"] for row in shared]))
    lines.append(_line("chgnet 0.4.2", [row["chgnet"] for row in shared]))
    both = [row for row in shared if row["uip"].get("converged") and row["chgnet"].get("converged")]
    return "\n".join([*lines, "", *_comparison(both)])


def _comparison(rows: list[dict[str, Any]]) -> list[str]:
    per_structure = [row["chgnet"]["seconds"] / row["uip"]["seconds"] for row in rows]
    per_step = [_per_step(row["chgnet"]) / _per_step(row["uip"]) for row in rows]
    energies = [abs(row["chgnet"]["energy"] - row["uip"]["energy"]) * 1e3 for row in rows]
    return [
        f"Of the {len(rows)} structures that both relax, uip takes less processor time by these factors (median,",
        f"smallest to largest): {_factor(per_structure)} per structure, {_factor(per_step)} per step. Energies of",
        f"relaxed structures differ by {statistics.median(energies):.1g} meV/atom, at most {max(energies):.1g}.",
    ]


def _line(title: str, found: list[dict[str, Any]]) -> str:
    done = [one for one in found if "seconds" in one]
    steps = [one["steps"] for one in done]
    seconds, share = sum(one["seconds"] for one in done), sum(one["converged"] for one in done)
    return (
        f"| {title} | {len(found)} | {share} | {statistics.median(steps):.0f}, {max(steps)} | "
        f"{seconds / len(done):.2f} | {1e3 * seconds / sum(one['steps'] + 1 for one in done):.1f} |"
    )


def _per_step(found: dict[str, Any]) -> float:
    return float(found["seconds"]) / (found["steps"] + 1)


def _factor(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def page(text: str, results: dict[str, Any]) -> str:
    """The page with the table between its markers."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an extxyz file of structures")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--peer-count", type=int, default=25)
    parser.add_argument("--max-atoms", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="only write docs/relax.md from the results")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(PAGE.read_text(), json.loads(options.output.read_text())))
        return
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results = measure(options)
    options.output.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
