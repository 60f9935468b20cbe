"""LiMn2O4 in LAMMPS, on two ranks, with the published CHGNet: exports the model, runs in.spinel, draws a figure.

    python examples/lammps_oxide/demo.py

Thermo goes to the screen while it runs; the figure shows the conservation of energy and how the moments of
manganese, all equal in the perfect crystal, part into those of Mn4+ and Mn3+.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from uip.plugins import lammps_plugin_folder

FOLDER = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
MODEL, FIGURE = FOLDER / "chgnet.pt2", FOLDER / "spinel.png"


def export() -> None:
    """Write chgnet.pt2, unless it is there."""
    if MODEL.exists():
        print(f"using {MODEL}")
        return
    subprocess.run([BIN / "uip", "export", "chgnet-0.3.0", "-o", MODEL], check=True)


def run_lammps() -> None:
    """Run the deck on two ranks, its output on this screen."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not any(point.name == "uip" for point in entry_points(group="lammps.plugins")):
        environment["LAMMPS_PLUGIN_PATH"] = lammps_plugin_folder()  # uip is not installed, only built
    command = [BIN / "mpiexec", "-n", "2", BIN / "lmp", "-in", "in.spinel"]
    subprocess.run(command, cwd=FOLDER, env=environment, check=True)


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
    moments.hist(last, bins=np.linspace(2.7, 4.5, 37), density=True, label="last 0.2 ps")
    moments.axvline(first.mean(), color="black", linestyle="--", label="perfect crystal")
    moments.set(xlabel=r"moment of Mn / $\mu_B$", ylabel="density", title=r"LiMn$_2$O$_4$: Mn$^{4+}$ and Mn$^{3+}$")
    moments.legend()
    figure.savefig(FIGURE, dpi=150)


def main() -> None:
    export()
    run_lammps()
    table = np.loadtxt(FOLDER / "energy.txt")
    time, atoms = table[:, 0] - table[0, 0], int(table[0, 3])
    potential, total = 1000 * table[:, 1] / atoms, 1000 * table[:, 2] / atoms  # meV per atom
    drift = np.polyfit(time, total, 1)[0]
    draw(time, potential, total, drift)
    moments = read_moments()[-1]
    print(f"\n{atoms} atoms on 2 ranks, {time[-1]:.2f} ps at constant energy")
    print(f"  potential energy moves by {np.ptp(potential):.1f} meV/atom, the total by {np.ptp(total):.3f} meV/atom")
    print(f"  drift of the total energy {drift:+.4f} meV/atom/ps")
    print(f"  moments of manganese from {moments.min():.2f} to {moments.max():.2f} mu_B, all equal at the start")
    print(f"figure: {FIGURE}")


if __name__ == "__main__":
    main()
