"""LiMn2O4 in LAMMPS, on two ranks, with the published CHGNet: exports the model, runs in.spinel, draws a figure.

    python examples/lammps_oxide/demo.py            # as many steps as fit into three minutes, export included
    python examples/lammps_oxide/demo.py --full     # 150 steps to warm up and 300 at constant energy

Thermo goes to the screen while it runs; the figure shows the conservation of energy and how the moments of
manganese, all equal in the perfect crystal, part into those of Mn4+ and Mn3+.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from uip.plugins import lammps_plugin_folder

FOLDER = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
MODEL, FIGURE = FOLDER / "chgnet.pt2", FOLDER / "spinel.png"
FULL = 450
"""Steps of the whole demo, a third of them to warm up."""
BUDGET = 150.0
"""Seconds for export and run together; the rest of three minutes is for starting, and for a machine that slows down."""


def export() -> None:
    """Write chgnet.pt2, unless it is there."""
    if MODEL.exists():
        print(f"using {MODEL}")
        return
    subprocess.run([BIN / "uip", "export", "chgnet-0.3.0", "-o", MODEL], check=True)


def run_lammps(steps: int, *, quiet: bool = False) -> float:
    """Run the deck on two ranks, a third of `steps` to warm up; returns seconds a step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not any(point.name == "uip" for point in entry_points(group="lammps.plugins")):
        environment["LAMMPS_PLUGIN_PATH"] = lammps_plugin_folder()  # uip is not installed, only built
    relax = steps // 30 * 10
    variables = {"relax": relax, "steps": steps - relax, "frames": max(steps // 40 * 10, 10)}
    command = [BIN / "mpiexec", "-n", "2", BIN / "lmp", "-in", "in.spinel"]
    command += [part for name, value in variables.items() for part in ("-var", name, str(value))]
    subprocess.run(command, cwd=FOLDER, env=environment, check=True, stdout=subprocess.DEVNULL if quiet else None)
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", (FOLDER / "log.lammps").read_text())
    return sum(float(seconds) for seconds, _ in loops) / sum(int(count) for _, count in loops)


def choose_steps(seconds_per_step: float, seconds_left: float) -> int:
    """As many steps as fit, a multiple of 30 between 60 and `FULL`."""
    return min(max(int(seconds_left / seconds_per_step) // 30 * 30, 60), FULL)


def read_moments() -> list[np.ndarray]:
    """Moments of manganese, one array a frame."""
    frames = (FOLDER / "moments.dump").read_text().split("ITEM: TIMESTEP")[1:]
    tables = [frame.split("ITEM: ATOMS id f_moments\n")[1] for frame in frames]
    return [np.array([float(line.split()[1]) for line in table.splitlines()]) for table in tables]


def draw(time: np.ndarray, potential: np.ndarray, total: np.ndarray, drift: float) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    energy, moments = figure.subplots(1, 2)
    energy.plot(time, potential - potential[0], label="potential energy")
    energy.plot(time, total - total[0], label="total energy")
    energy.set(
        xlabel="time / ps", ylabel="change / meV per atom", title=f"constant energy: drift {drift:+.3f} meV/atom/ps"
    )
    energy.legend()
    first, last = read_moments()[0], np.concatenate(read_moments()[-3:])
    moments.hist(last, bins=np.linspace(2.7, 4.5, 37), density=True, label="last three frames")
    moments.axvline(first.mean(), color="black", linestyle="--", label="perfect crystal")
    moments.set(xlabel=r"moment of Mn / $\mu_B$", ylabel="density", title=r"LiMn$_2$O$_4$: Mn$^{4+}$ and Mn$^{3+}$")
    moments.legend()
    figure.savefig(FIGURE, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="LiMn2O4 in LAMMPS on two ranks with the published CHGNet.")
    parser.add_argument("--full", action="store_true", help=f"{FULL} steps, however long they take")
    full = parser.parse_args().full
    began = time.monotonic()
    export()
    # the speed of this machine, from ten steps
    steps = FULL if full else choose_steps(run_lammps(10, quiet=True), BUDGET - (time.monotonic() - began))
    seconds_per_step = run_lammps(steps)
    report(steps, seconds_per_step)


def report(steps: int, seconds_per_step: float) -> None:
    """Draw the figure and print the summary."""
    table = np.loadtxt(FOLDER / "energy.txt")
    time, atoms = table[:, 0] - table[0, 0], int(table[0, 3])
    potential, total = 1000 * table[:, 1] / atoms, 1000 * table[:, 2] / atoms  # meV per atom
    drift = np.polyfit(time, total, 1)[0]
    draw(time, potential, total, drift)
    moments = read_moments()[-1]
    print(f"\n{atoms} atoms on 2 ranks, {time[-1]:.2f} ps at constant energy")
    print(f"  {1000 * seconds_per_step:.0f} ms a step, {1e6 * seconds_per_step / atoms:.0f} us an atom and step")
    print(
        f"  potential energy changes by {np.ptp(potential):.1f} meV/atom, total energy by {np.ptp(total):.3f} meV/atom"
    )
    print(f"  drift of the total energy {drift:+.4f} meV/atom/ps")
    print(f"  moments of manganese from {moments.min():.2f} to {moments.max():.2f} mu_B, all equal at the start")
    print(f"figure: {FIGURE}")
    if steps < FULL:
        print(f"{steps} of {FULL} steps were run, to end within three minutes; all of them:")
        print(f"  {sys.executable} {__file__} --full")


if __name__ == "__main__":
    main()
