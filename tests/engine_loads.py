"""One model file loaded and run in each engine, and the processes in which tests do so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import openmm
from ase.build import bulk

from uip import Calculator
from uip.openmm import create_force
from uip.plugins import lammps_plugin

ATOMS = bulk("NiO", "rocksalt", a=4.17)

DECK = """clear
plugin load {plugin}
units metal
region r block 0 9 0 9 0 9
create_box 1 r
create_atoms 1 single 1 1 1
mass 1 58.69
pair_style uip {settings}
pair_coeff * * {path} Ni
run 0 post no
"""

ERRORS = """
import json, sys
from engine_loads import deck, restart_deck, silent_lammps
found = {}
for name, path, settings in json.loads(sys.argv[1]):
    lmp = silent_lammps()
    try:
        lmp.commands_string(deck(path, settings) + restart_deck(path))
        found[name] = ""
    except Exception as error:
        found[name] = str(error)
    lmp.close()
print(json.dumps(found))
"""


def load_calculator(path: str) -> None:
    Calculator(path).get_forces(ATOMS)


def load_context(path: str) -> None:
    system = openmm.System()
    for mass in ATOMS.get_masses():
        system.addParticle(mass)
    system.addForce(create_force(path, ATOMS.numbers, periodic=False))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * ATOMS.positions)
    context.getState(getForces=True)


def deck(path: str, settings: str = "") -> str:
    """LAMMPS commands that load and run the file, also again in the same process."""
    return DECK.format(plugin=lammps_plugin(), path=path, settings=settings)


def restart_deck(path: str) -> str:
    return f"write_restart {path}.restart\nclear\nread_restart {path}.restart\nrun 0 post no\n"


def silent_lammps():  # type: ignore[no-untyped-def] # only with LD_LIBRARY_PATH
    from lammps import lammps

    return lammps(cmdargs=["-log", "none", "-screen", "none"])


def run_python(code: str, *arguments: object, **variables: str) -> str:
    """The output of `code` in a new process that can import this file and the LAMMPS library."""
    paths = {"PYTHONPATH": str(Path(__file__).parent), "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, env={**os.environ, **paths, **variables}, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def errors_of_lammps(files: list[tuple[str, Path, str]], **variables: str) -> dict[str, str]:
    """How each file (name, path, arguments of pair_style) did: the error, or "" if it ran, also after a restart."""
    return dict(json.loads(run_python(ERRORS, json.dumps(files, default=str), **variables).splitlines()[-1]))
