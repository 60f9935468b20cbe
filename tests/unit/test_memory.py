"""Memory of a process that loads models again and again: what is no longer used is freed, at once."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import systems
from export_files import COMPILED, exported

from uip import Calculator

pytestmark = COMPILED

MEASURE = """
import sys
from ase.build import bulk
path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
atoms = bulk("NiO", "rocksalt", a=4.17)

def memory():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024, sum(1 for _ in open("/proc/self/maps"))
"""
LOOP = """
for k in range(last):
    if k == first:
        before = memory()
    load()
print(*(after - before for after, before in zip(memory(), before)))
"""
LOADS = {
    "program": "from uip.program.reader import load_program\ndef load():\n    load_program(path)\n",
    "calculator": """
from uip import Calculator
def load():
    atoms.calc = Calculator(path)
    atoms.get_forces()
""",
    "openmm": """
import openmm
from uip.openmm import create_force
def load():
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(create_force(path, atoms.numbers, periodic=False))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * atoms.positions)
    context.getState(getForces=True)
""",
    "lammps": """
from lammps import lammps
from uip.plugins import lammps_plugin
lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
def load():
    lmp.commands_string(f'''clear
plugin load {lammps_plugin()}
units metal
region r block 0 9 0 9 0 9
create_box 1 r
create_atoms 1 single 1 1 1
mass 1 58.69
pair_style uip
pair_coeff * * {path} Ni
run 0 post no''')
""",
}


def growth(engine: str, path: Path, first: int, last: int) -> tuple[float, float]:
    """MiB of resident memory, and memory maps, that the loads after the number `first` added; all in a new process."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE + LOADS[engine] + LOOP, path, str(first), str(last)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    megabytes, maps = map(float, run.stdout.split()[-2:])
    return megabytes, maps


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_some_loads(suffix: str) -> None:
    """A leak of 2.1 MiB a load, as there was, would be 40."""
    megabytes, maps = growth("program", exported("random", suffix), 10, 30)
    assert megabytes < 1.0
    assert maps <= 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("engine", ["calculator", "openmm", "lammps"])
def test_a_hundred_loads(engine: str, suffix: str) -> None:
    """After the first 20, in which the heap finds its size. Measured: 0.1 to 0.6 MiB, while libtorch's own
    loaders take 0.0."""
    megabytes, maps = growth(engine, exported("random", suffix), 20, 120)
    assert megabytes < 1.0
    assert maps <= 4


def test_a_calculator_that_is_no_longer_used() -> None:
    """Its model is freed without the garbage collector."""
    atoms = systems.nio()
    gc.collect()
    gc.disable()
    try:
        calc = Calculator(exported("random", ".pt"))
        calc.get_forces(atoms)
        references = [weakref.ref(calc), weakref.ref(calc.evaluator.potential)]
        del calc
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()
