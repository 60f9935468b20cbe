"""Processes that end at random moments of loading and running a compiled program: the next start finds what they left
in TMPDIR and removes it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import engine_loads
import pytest
from export_files import COMPILED, exported
from lammps_run import BIN, command_of, end_all, environment_of

from uip.program.reader import load_program

pytestmark = [pytest.mark.slow, COMPILED]

CHILDREN = """
import os, random, signal, sys, time
from engine_loads import load_calculator, load_context
from uip.openmm import load_plugin
load_plugin()
path, random = sys.argv[1], random.Random(0)

class Interrupted(Exception):
    pass

def interrupted(*_):
    raise Interrupted("at a random moment")

def child(work, way):
    signal.signal(signal.SIGALRM, interrupted)
    if way is None:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.02, 0.4), 0.1)  # again, where it is lost
    while True:
        work(path)

for way in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None) * 2:
    for work in (load_calculator, load_context):
        moment = random.uniform(0.02, 0.4)
        pid = os.fork()
        if pid == 0:
            child(work, way)
        if way is not None:
            time.sleep(moment)
            os.kill(pid, way)
        os.waitpid(pid, 0)
"""
"""Children of one process, which has imported everything: 16 ends in some seconds."""

DECK = """units metal
boundary p p p
region r block 0 9 0 9 0 9
create_box 1 r
create_atoms 1 random 4 1 NULL overlap 1.5
mass 1 58.69
label again
variable n loop {loads}
pair_style uip
pair_coeff * * {file} Ni
fix move all nve
run 3
unfix move
pair_style none
next n
jump SELF again
read_data missing.data
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    return scratch


def left_in(scratch: Path) -> int:
    return len(list(scratch.glob("uip-*")))


def start(scratch: Path) -> None:
    """Another process loads a program: this one. An empty folder, of a process killed before it made the lock or after
    it removed it, is removed when it is older than ten seconds."""
    load_program(exported("random", ".pt2"))
    for folder in scratch.glob("uip-*"):
        assert not list(folder.iterdir())
        os.utime(folder, (0.0, 0.0))
    load_program(exported("random", ".pt2"))
    assert left_in(scratch) == 0


def test_children_of_python(scratch: Path) -> None:
    """Calculator and OpenMM: SIGKILL, SIGTERM, exceptions."""
    file = exported("random", ".pt2")
    paths = {"PYTHONPATH": str(Path(engine_loads.__file__).parent)}
    command = [sys.executable, "-c", CHILDREN, file]
    run = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stderr.count("Interrupted: at a random moment") >= 4
    start(scratch)


def test_one_folder_of_a_killed_process(scratch: Path) -> None:
    """What the tests here are about does occur: the folder of a program is there while its self-test runs."""
    code = "import sys; from uip.program.reader import load_program\nwhile True: load_program(sys.argv[1])"
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", code, exported("random", ".pt2")])
        while left_in(scratch) == 0:
            time.sleep(0.001)
        process.kill()
        process.wait()
        if left_in(scratch):
            break
    assert left_in(scratch) == 1
    start(scratch)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_lammps(num_ranks: int, tmp_path: Path, scratch: Path) -> None:
    """SIGKILL of one rank, SIGTERM of mpiexec, which can lose the first signal: a second one follows."""
    (tmp_path / "in.deck").write_text(DECK.format(file=exported("random", ".pt2"), loads=1000))
    rng = random.Random(num_ranks)
    for way in (signal.SIGKILL, signal.SIGTERM) * 2:
        process = subprocess.Popen(
            command_of(num_ranks, "-log", "none"),
            cwd=tmp_path,
            env=environment_of({"TMPDIR": str(scratch)}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            before = left_in(scratch)
            while left_in(scratch) == before and process.poll() is None:
                time.sleep(0.001)
            assert process.poll() is None
            ranks = ranks_of(process.pid)
            time.sleep(rng.uniform(0.0, 0.4))
            if way == signal.SIGKILL:
                os.kill(rng.choice(ranks), way)
            else:
                process.send_signal(way)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        finally:
            end_all(process)
        wait_for_end(ranks)
    start(scratch)


def ranks_of(process: int) -> list[int]:
    """Its descendants that have no children."""
    children = [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [rank for child in children for rank in ranks_of(child)] if children else [process]


def wait_for_end(processes: list[int]) -> None:
    limit = time.monotonic() + 30.0
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < limit, "a rank outlives mpiexec"
        time.sleep(0.01)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_bad_command_after_loads(num_ranks: int, tmp_path: Path, scratch: Path) -> None:
    """One rank of LAMMPS calls MPI_Abort."""
    (tmp_path / "in.deck").write_text(DECK.format(file=exported("random", ".pt2"), loads=2))
    command = [str(BIN / "mpiexec"), "-n", str(num_ranks), *command_of(1, "-log", "none")[3:]]
    run = subprocess.run(command, cwd=tmp_path, env=environment_of({"TMPDIR": str(scratch)}), capture_output=True)
    assert run.returncode != 0
    assert b"missing.data" in run.stdout + run.stderr
    start(scratch)
