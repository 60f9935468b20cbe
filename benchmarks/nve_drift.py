"""Energy drift of an NVE run in LAMMPS: 216 Si atoms, published CHGNet in float64, 2 ranks, 5 ps of 1 fs.

    python benchmarks/nve_drift.py [--steps 5000] [--folder DIR]

Prints the slope of the total energy. Takes half an hour on two cores; `uip` and `lmp` come from this environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BIN = Path(sys.executable).parent
DECK = """units metal
lattice diamond 5.47
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 28.0855
pair_style uip
pair_coeff * * chgnet.pt2 Si
velocity all create 600 4928459 loop geom
fix move all nve
timestep 0.001
thermo 20
thermo_style custom step time temp pe etotal
thermo_modify flush yes format float %.10g
run {steps}
"""
EQUILIBRATION = 0.2
"""ps that do not count."""


def run(folder: Path, steps: int) -> np.ndarray:
    """(rows, 2): time in ps, total energy in meV/atom."""
    subprocess.run(
        [BIN / "uip", "export", "chgnet-0.3.0", "-o", "chgnet.pt2", "--dtype", "float64"], check=True, cwd=folder
    )
    (folder / "in.nve").write_text(DECK.format(steps=steps))
    command = [BIN / "mpiexec", "-n", "2", BIN / "lmp", "-in", "in.nve", "-log", "log.nve"]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return energies(folder / "log.nve")


def energies(log: Path) -> np.ndarray:
    rows = [line.split() for line in log.read_text().splitlines()]
    numbers = [[float(x) for x in row] for row in rows if len(row) == 5 and row[0].isdigit()]
    table = np.array(numbers)
    return np.stack([table[:, 1], 1e3 * table[:, 4] / 216], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        time, energy = run(arguments.folder or Path(temporary), arguments.steps).T
    used = time >= EQUILIBRATION
    slope, offset = np.polyfit(time[used], energy[used], 1)
    scatter = (energy[used] - slope * time[used] - offset).std()
    print(f"{time[-1]:.1f} ps: drift {slope:+.4f} meV/atom/ps, scatter about it {scatter:.4f} meV/atom")


if __name__ == "__main__":
    main()
