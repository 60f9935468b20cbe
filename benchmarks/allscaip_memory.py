"""Peak memory and time of energy and forces against the number of atoms: AllScAIP "sm", periodic water, float32.

    python benchmarks/allscaip_memory.py [--atoms 192 1029 10125] [--radial] [--program sm.pt2] [--save uip.json]
    python benchmarks/allscaip_memory.py --peer .venv-fairchem/bin/python --save fairchem.json
    python benchmarks/allscaip_memory.py --draw uip.json fairchem.json --figure memory.png

Each size runs in a separate process, which ends with an error if it needs more than --limit GB; larger sizes are then
skipped. `--program`: an exported file instead of the eager model; it is written first if it does not exist, with
`recompute`. `--peer`: Python of an environment with the published code (fairchem-core 2.24). Weights are random; memory
and time do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import allscaip_vs_fairchem as versus
import torch


def water(num_atoms: int):
    """The cubic box of molecules with the nearest number of atoms."""
    return versus.water(round((num_atoms / 3) ** (1 / 3)) ** 3)


def model(radial: bool):
    from uip.models.allscaip import SIZES, AllScAIP, AllScAIPConfig

    torch.manual_seed(0)
    return AllScAIP(AllScAIPConfig(**SIZES["sm"], radial=radial)).requires_grad_(False).eval()


def peak() -> float:
    """Peak memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def evaluation(arguments: argparse.Namespace):
    """Returns a function that evaluates atoms."""
    if arguments.peer:
        return versus.peer("sm", None)
    from uip.graph.ase_io import structure_from_atoms
    from uip.inference.evaluator import load_evaluator

    evaluator = load_evaluator(str(arguments.program) if arguments.program else model(arguments.radial))
    return lambda atoms: evaluator(evaluator.neighbor_list().build(structure_from_atoms(atoms)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_DATA, (int(arguments.limit * 1e9),) * 2)
    torch.set_num_threads(arguments.threads)
    evaluate = evaluation(arguments)
    small, atoms = water(24), water(arguments.one)
    for box in (small, atoms):
        box.info.update(charge=0, spin=1)
    evaluate(small)
    base = peak()
    start = time.perf_counter()
    try:
        evaluate(atoms)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower():
            raise
        return {"atoms": len(atoms), "seconds": None, "peak": None, "base": base}
    return {"atoms": len(atoms), "seconds": time.perf_counter() - start, "peak": peak(), "base": base}


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per size; the last one may exceed the limit."""
    rows: list[dict[str, Any]] = []
    for num_atoms in arguments.atoms:
        command = [arguments.peer or sys.executable, __file__, "--one", num_atoms, "--limit", arguments.limit]
        command += ["--threads", arguments.threads] + ["--radial"] * arguments.radial
        command += ["--program", arguments.program] if arguments.program else []
        command += ["--peer", arguments.peer] if arguments.peer else []
        answer = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        row = json.loads(answer.stdout.splitlines()[-1]) if answer.returncode == 0 else {"atoms": num_atoms}
        rows.append({"seconds": None, "peak": None, "base": None, **row})
        if rows[-1]["peak"] is None:
            print(f"{rows[-1]['atoms']:6} atoms  need more than {arguments.limit:g} GB", flush=True)
            break
        print(
            "{atoms:6.0f} atoms  {peak:6.2f} GB  ({base:.2f} GB at 24 atoms)  {seconds:7.1f} s".format(**rows[-1]),
            flush=True,
        )
    return rows


def draw(files: list[Path], path: Path) -> None:
    from matplotlib.figure import Figure

    axes = (canvas := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
    for file in files:
        series = json.loads(file.read_text())
        rows = [row for row in series["rows"] if row["peak"] is not None]
        (line,) = axes.plot([row["atoms"] for row in rows], [row["peak"] for row in rows], "o-", label=series["label"])
        for row in series["rows"]:
            if row["peak"] is None:
                axes.plot(row["atoms"], series["limit"], "x", color=line.get_color(), markersize=9, clip_on=False)
    axes.set(xlabel="atoms (periodic water)", ylabel="peak memory / GB", xlim=0, ylim=0)
    axes.legend(title="x: more than the limit")
    canvas.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[192, 1029, 2187, 5184, 10125])
    parser.add_argument("--radial", action="store_true")
    parser.add_argument("--program", type=Path)
    parser.add_argument("--peer", help="a Python that has fairchem-core 2.24")
    parser.add_argument("--limit", type=float, default=20.0, help="GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--label", default="uip")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--draw", type=Path, nargs="+", help="files that --save wrote")
    parser.add_argument("--figure", type=Path, default=Path("memory.png"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    if arguments.draw:
        draw(arguments.draw, arguments.figure)
        return
    if arguments.program and not arguments.program.exists():
        from uip.program.writer import export_model

        export_model(model(arguments.radial), arguments.program, recompute=True, progress=print)
    rows = measured(arguments)
    if arguments.save:
        arguments.save.write_text(json.dumps({"label": arguments.label, "limit": arguments.limit, "rows": rows}))


if __name__ == "__main__":
    main()
