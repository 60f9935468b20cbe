"""Salt water with a trained model: one exported file, in LAMMPS on two ranks and in OpenMM, compared with the teacher.

    python demo_water.py                    # saltwater-mini; 20 ps, or as much as fits into 13 minutes
    python demo_water.py other.ckpt

All three start from one snapshot of the teacher at 300 K: 48 molecules of water, 2 Na+ and 2 Cl- at 1.08 g/cm^3. The
figure has the radial distribution functions of the three; first peaks are printed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from ase.io import read
from matplotlib.figure import Figure
from observables import FIRST, PAIRS, Radial, radial
from openmm import unit
from salt_water import Box, simulation

from uip.openmm import create_force
from uip.plugins import lammps_plugin_folder
from uip.units import A_TO_NM

FOLDER = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
FIGURE = FOLDER / "salt_water.png"
BOX = Box(waters=48, pairs=2, density=1.08, temperature=300.0)
ORDER = ["O", "H", "Na", "Cl"]
"""Elements of the LAMMPS types 1, 2, 3, 4 in in.salt_water."""
BUDGET = 780.0
"""Seconds for everything; the rest of 15 minutes is for a machine that slows down."""
STEP = 0.002
"""ps; hydrogen of mass 4 vibrates at half of its frequency."""
MOST = 10_000
"""Steps."""
EVERY = 25
"""Steps between frames."""
TEACHER = 40_000
"""Steps of the teacher, of 1 fs."""
SETTLING = 0.2
"""Part of the frames that is left out at the start."""


def export(model: str) -> Path:
    """The file that both engines read: compiled, if there is a C++ compiler."""
    path = FOLDER / ("salt_water.pt2" if shutil.which("g++") else "salt_water.pt")
    if subprocess.run([BIN / "uip", "export", model, "-o", path, "--force"]).returncode:
        raise SystemExit(1)  # the command has said why
    return path


def frames_of(context: openmm.Context, atoms: Atoms, steps: int, every: int | None = None) -> list[Atoms]:
    """A frame after every `every` steps of a Context; `EVERY` if not given."""
    frames, every = [], every or EVERY
    for _ in range(steps // every):
        context.getIntegrator().step(every)
        positions = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        frames.append(Atoms(atoms.symbols, positions, cell=atoms.cell, pbc=True))
    return frames


def run_teacher(steps: int) -> list[Atoms]:
    """Frames of the teacher after 20 ps; the first is where the others start."""
    atoms = BOX.start(np.random.default_rng(0))
    context = simulation(atoms, BOX.temperature, seed=1, threads=2)
    context.getIntegrator().step(20_000)
    return frames_of(context, atoms, steps)


def run_openmm(
    model: Path, start: Atoms, steps: int, temperature: float = BOX.temperature, *, every: int | None = None
) -> list[Atoms]:
    """Frames of the model in OpenMM; masses as in in.salt_water."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(A_TO_NM * start.cell.array))
    for mass in np.where(start.numbers == 1, 4.0, start.get_masses()):
        system.addParticle(mass)
    system.addForce(create_force(model, start.numbers, periodic=True))
    integrator = openmm.LangevinMiddleIntegrator(temperature, 5.0, STEP)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(A_TO_NM * start.positions)
    context.setVelocitiesToTemperature(temperature, 1)
    return frames_of(context, start, steps, every)


def run_lammps(model: Path, start: Atoms, steps: int, ensemble: str = "nvt") -> list[Atoms]:
    """Frames of the model in LAMMPS on two ranks; volumes and energies are in salt_water.values."""
    start.write(FOLDER / "salt_water.data", format="lammps-data", specorder=ORDER, masses=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not any(point.name == "uip" for point in entry_points(group="lammps.plugins")):
        environment["LAMMPS_PLUGIN_PATH"] = lammps_plugin_folder()  # uip is not installed, only built
    command = [BIN / "mpiexec", "-n", "2", BIN / "lmp", "-in", "in.salt_water"]
    variables = {"model": model, "steps": steps, "every": EVERY, "step": STEP, "ensemble": ensemble}
    command += [part for name, value in variables.items() for part in ("-var", name, str(value))]
    subprocess.run(command, cwd=FOLDER, env=environment, check=True)
    return read(FOLDER / "salt_water.dump", index=":", format="lammps-dump-text", specorder=ORDER)


def seconds_per_step() -> float:
    """Of the last run of LAMMPS."""
    loop = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", (FOLDER / "log.lammps").read_text())[-1]
    return float(loop[0]) / int(loop[1])


def draw(curves: dict[str, list[Radial]], path: Path) -> None:
    """One panel for each pair of elements; the teacher as a broad line."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for number, (pair, axes) in enumerate(zip(PAIRS, figure.subplots(1, 3), strict=True)):
        for name, found in curves.items():
            style = {"color": "0.6", "linewidth": 4} if name == "teacher" else {"linewidth": 1.2}
            axes.plot(found[number].distance, found[number].value, label=name, **style)
        axes.set(xlabel="r / A", ylabel="g(r)", title="-".join(pair), xlim=(2.0, None))
        axes.legend()
    figure.savefig(path, dpi=100)


def report(curves: dict[str, list[Radial]]) -> None:
    """First peaks: position and height."""
    print(f"\nfirst peak: r / A, g(r)\n{'':20}" + "".join(f"{'-'.join(pair):>18}" for pair in PAIRS))
    for name, found in curves.items():
        peaks = [one.peak(FIRST[pair]) for pair, one in zip(PAIRS, found, strict=True)]
        print(f"{name:20}" + "".join(f"{position:10.3f} {height:7.2f}" for position, height in peaks))
    print(f"figure: {FIGURE}")


def main(checkpoint: str = "saltwater-mini") -> None:
    began = time.monotonic()
    model = export(checkpoint)
    trajectories = {"teacher": run_teacher(TEACHER)}
    start = trajectories["teacher"][0]
    run_lammps(model, start, 50)  # the speed of this machine
    left = BUDGET - (time.monotonic() - began)
    steps = min(int(left / 2 / seconds_per_step()) // EVERY * EVERY, MOST)
    trajectories["LAMMPS, 2 ranks"] = run_lammps(model, start, steps)
    trajectories["OpenMM"] = run_openmm(model, start, steps)
    curves = {}
    for name, frames in trajectories.items():
        kept = frames[int(SETTLING * len(frames)) :]
        curves[name] = [radial(kept, pair) for pair in PAIRS]
    draw(curves, FIGURE)
    print(
        f"\n{len(start)} atoms, {STEP * steps:g} ps in each engine, {1000 * seconds_per_step():.0f} ms a step in LAMMPS"
    )
    report(curves)


if __name__ == "__main__":
    main(*sys.argv[1:2])
