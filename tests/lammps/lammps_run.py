"""Runs pip's `lmp` on a number of ranks, and reads what it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from uip.plugins import lammps_plugin_folder

BIN = Path(sys.executable).parent
BAR = 1.6021765e6
"""bar per eV/A^3, as LAMMPS has it in metal units (nktv2p)."""


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    code: int
    text: str


def command_of(num_ranks: int, *arguments: str) -> list[str]:
    """`mpiexec -n num_ranks lmp` with the deck `in.deck`."""
    return [str(BIN / "mpiexec"), "-n", str(num_ranks), str(BIN / "lmp"), "-in", "in.deck", "-nocite", *arguments]


def environment_of(variables: dict[str, str] | None = None) -> dict[str, str]:
    """This process's variables, and those that make `lmp` find the plugin; `variables` replace others."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not any(point.name == "uip" for point in entry_points(group="lammps.plugins")):
        environment["LAMMPS_PLUGIN_PATH"] = lammps_plugin_folder()
    return {**environment, **(variables or {})}


def run_lammps(
    folder: Path, deck: str, num_ranks: int, *arguments: str, variables: dict[str, str] | None = None, limit: int = 240
) -> Run:
    """Run `deck` in `folder` with `mpiexec -n num_ranks lmp`; `variables` join the environment.

    A run longer than `limit` seconds is ended, with all its ranks, and fails the test.
    """
    (folder / "in.deck").write_text(deck)
    process = subprocess.Popen(
        command_of(num_ranks, *arguments),
        cwd=folder,
        env=environment_of(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end_all(process)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {limit} s:\n{output.decode(errors='replace')[-3000:]}") from None
    return Run(process.returncode, output.decode(errors="replace"))


def end_all(process: subprocess.Popen[Any]) -> None:
    """Ends an mpiexec that has its own session, if it still runs, and its ranks, which it ends itself if it can."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def write_data(atoms: Atoms, path: Path, symbols: list[str]) -> None:
    """A LAMMPS data file (atom_style atomic); the cell must be lower triangular, as LAMMPS keeps it."""
    cell = atoms.cell.array
    assert np.allclose(cell, np.tril(cell)), "rotate the structure so that a is along x and b in the xy plane"
    lines = ["made by a test", "", f"{len(atoms)} atoms", f"{len(symbols)} atom types", ""]
    lines += [f"0 {float(cell[k, k])!r} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
    if np.abs(cell - np.diag(np.diag(cell))).max() > 0:
        lines.append(f"{float(cell[1, 0])!r} {float(cell[2, 0])!r} {float(cell[2, 1])!r} xy xz yz")
    lines += ["", "Atoms # atomic", ""]
    for k, (x, y, z) in enumerate(atoms.positions.tolist()):
        lines.append(f"{k + 1} {symbols.index(atoms.symbols[k]) + 1} {x!r} {y!r} {z!r}")
    path.write_text("\n".join(lines) + "\n")


OUTPUT = """
compute pe_atom all pe/atom pair
compute stress_atom all stress/atom NULL pair
compute centroid all centroid/stress/atom NULL pair
compute virial all pressure NULL pair
compute sums all reduce sum c_pe_atom c_stress_atom[*] c_centroid[*]
thermo_style custom step pe etotal vol lx ly lz xy xz yz c_virial[*] c_sums[*]
thermo_modify format float %.16g
"""
"""Commands before a run that make thermo lines hold everything `read_result` reads."""

DUMP = """
write_dump all custom dump.{name} id proc type x y z fx fy fz c_pe_atom {more} modify format float %.16g sort id
"""
"""And after it, with `more` columns; needs `OUTPUT`."""

COLUMNS = ["step", "pe", "etotal", "vol", "lx", "ly", "lz", "xy", "xz", "yz"] + [f"virial{k}" for k in range(6)]
COLUMNS += ["sum_energy", *(f"sum_stress{k}" for k in range(6)), *(f"sum_centroid{k}" for k in range(9))]


@dataclass(frozen=True)
class Result:
    """One written step. Virials in eV, (6,) in LAMMPS' order xx yy zz xy xz yz, (9,) with yx zx zy after them."""

    thermo: dict[str, float]
    proc: NDArray[np.float64]
    types: NDArray[np.int64]
    positions: NDArray[np.float64]
    forces: NDArray[np.float64]
    node_energy: NDArray[np.float64]
    more: NDArray[np.float64]

    @property
    def cell(self) -> NDArray[np.float64]:
        t = self.thermo
        return np.array([[t["lx"], 0, 0], [t["xy"], t["ly"], 0], [t["xz"], t["yz"], t["lz"]]])

    @property
    def virial(self) -> NDArray[np.float64]:
        return np.array([self.thermo[f"virial{k}"] for k in range(6)]) * self.thermo["vol"] / BAR

    @property
    def virial_of_atoms(self) -> NDArray[np.float64]:
        return -np.array([self.thermo[f"sum_stress{k}"] for k in range(6)]) / BAR

    @property
    def virial_of_centroids(self) -> NDArray[np.float64]:
        return -np.array([self.thermo[f"sum_centroid{k}"] for k in range(9)]) / BAR


def thermo_of(text: str) -> list[dict[str, float]]:
    """The thermo lines with the columns of `OUTPUT` in a screen or log output, of all runs."""
    rows = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == len(COLUMNS) and words[0].isdigit():
            rows.append(dict(zip(COLUMNS, map(float, words), strict=True)))
    return rows


def read_dump(path: Path) -> list[NDArray[np.float64]]:
    """The frames of a dump, sorted by id."""
    frames = []
    for block in path.read_text().split("ITEM: TIMESTEP\n")[1:]:
        body = block.split("ITEM: ATOMS")[1].splitlines()[1:]
        frames.append(np.array([[float(word) for word in line.split()] for line in body]))
    return frames


def read_result(folder: Path, name: str) -> Result:
    """The last step of a deck with `log log.{name}`, `OUTPUT` and `DUMP`."""
    frame = read_dump(folder / f"dump.{name}")[-1]
    return Result(
        thermo=thermo_of((folder / f"log.{name}").read_text())[-1],
        proc=frame[:, 1],
        types=frame[:, 2].astype(np.int64),
        positions=frame[:, 3:6],
        forces=frame[:, 6:9],
        node_energy=frame[:, 9],
        more=frame[:, 10:],
    )
