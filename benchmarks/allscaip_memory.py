"""Peak memory and time of energy and forces against the number of atoms: AllScAIP "sm", periodic water, float32.

    python benchmarks/allscaip_memory.py [--atoms 192 1029 10125] [--radial] [--program sm.pt2] [--figure x.png]

Each size runs in a process of its own. `--program`: an exported file instead of the eager model; it is written first if
it does not exist, with layers recomputed. Weights are random: neither memory nor time depends on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

SPACING = 3.1
"""A between molecules, about the density of water."""


def water(num_atoms: int) -> Atoms:
    """The cube of molecules whose number of atoms is nearest."""
    side = round((num_atoms / 3) ** (1 / 3))
    generator = np.random.default_rng(0)
    box = Atoms(cell=np.eye(3) * SPACING * side, pbc=True)
    for place in np.ndindex(side, side, side):
        one = molecule("H2O")
        one.rotate(generator.uniform(0, 360), generator.normal(size=3))
        one.positions += SPACING * np.array(place) - one.positions.mean(0)
        box += one
    box.rattle(0.05, seed=1)
    return box


def model(radial: bool):
    from uip.models.allscaip import SIZES, AllScAIP, AllScAIPConfig

    torch.manual_seed(0)
    return AllScAIP(AllScAIPConfig(**SIZES["sm"], radial=radial)).requires_grad_(False).eval()


def peak() -> float:
    """GB that this process has used at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(num_atoms: int, radial: bool, program: str | None) -> dict[str, float]:
    from uip.data.read import structure_from_atoms
    from uip.predict import load_evaluator

    evaluator = load_evaluator(program or model(radial))
    evaluator(evaluator.neighbor_list().build(structure_from_atoms(water(24))))
    base = peak()
    atoms = water(num_atoms)
    start = time.perf_counter()
    evaluator(evaluator.neighbor_list().build(structure_from_atoms(atoms)))
    return {"atoms": len(atoms), "seconds": time.perf_counter() - start, "peak": peak(), "base": base}


def figure(rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    axes = (canvas := Figure(figsize=(5, 4), layout="constrained")).add_subplot()
    axes.plot([row["atoms"] for row in rows], [row["peak"] for row in rows], "o-", label="uip, AllScAIP sm")
    axes.set(xlabel="atoms (periodic water)", ylabel="peak memory / GB", xlim=0, ylim=0)
    axes.legend()
    canvas.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, nargs="+", default=[192, 1029, 2187, 5184, 10125])
    parser.add_argument("--radial", action="store_true")
    parser.add_argument("--program", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    program = None if arguments.program is None else str(arguments.program)
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.radial, program)))
        return
    if program and not Path(program).exists():
        from uip.export import export_model

        source = model(arguments.radial)
        export_model(source, program, recompute=True, progress=print)
    rows = []
    for num_atoms in arguments.atoms:
        command = [sys.executable, __file__, "--one", str(num_atoms)]
        command += ["--radial"] * arguments.radial + (["--program", program] if program else [])
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(
            "{atoms:6.0f} atoms  {peak:6.2f} GB  ({base:.2f} GB at 24 atoms)  {seconds:7.1f} s".format(**rows[-1]),
            flush=True,
        )
    if arguments.figure:
        figure(rows, arguments.figure)


if __name__ == "__main__":
    main()
