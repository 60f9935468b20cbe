"""Memory of a process that loads models again and again: what is no longer used is freed, at once."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import systems
from engine_loads import run_python
from export_files import COMPILED, exported

from uip import Calculator

pytestmark = COMPILED

LOADS = {
    "program": "from uip.program.reader import load_program as load",
    "calculator": "from engine_loads import load_calculator as load",
    "openmm": "from engine_loads import load_context as load",
    "lammps": """from engine_loads import deck, silent_lammps
lmp = silent_lammps()
def load(path):
    lmp.commands_string(deck(path))""",
}
LOOP = """
import sys
path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def memory():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024, sum(1 for _ in open("/proc/self/maps"))

seen = []
for k in range(last):
    if k in (first, (first + last) // 2):
        seen.append(memory())
    load(path)
seen.append(memory())
# a leak grows in both halves; the heap may find its size, with an arena for another thread, in one of them
print(*(2 * min(after - middle, middle - before) for before, middle, after in zip(*seen)))
"""


def growth(engine: str, path: Path, first: int, last: int) -> tuple[float, float]:
    """MiB of resident memory, and memory maps, that the loads after the number `first` added, by the half of them that
    added less; all in a new process."""
    output = run_python(f"{LOADS[engine]}\n{LOOP}", path, first, last, OMP_NUM_THREADS="1")
    megabytes, maps = map(float, output.split()[-2:])
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
