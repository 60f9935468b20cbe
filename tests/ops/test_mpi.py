"""The communication ops on several ranks, over mpi4py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import systems
from ase import Atoms
from ase.io import read, write
from conftest import random_allscaip
from export_files import COMPILED, exported

from uip import Calculator
from uip.checkpoint import save_checkpoint

HERE = Path(__file__).parent
SHARED = pytest.mark.xdist_group("mpi")
"""Of tests that read the results of one mpiexec."""


def run_on_ranks(num_ranks: int, *arguments: str, limit: float = 240) -> subprocess.CompletedProcess[str]:
    mpiexec = Path(sys.executable).parent / "mpiexec"
    return subprocess.run(
        [str(mpiexec), "-n", str(num_ranks), sys.executable, "-m", "mpi4py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        cwd=HERE,
        capture_output=True,
        encoding="utf-8",
        timeout=limit,
        check=False,
    )


BROKEN_ADJOINTS = ("adjoint:without reverse", "adjoint:without forward")
BROKEN_ATTENTION = ("attention:without reduce", "attention:wrong order")


@pytest.fixture(scope="module")
def results() -> Callable[[str], list[str]]:
    """What each rank printed for a check; all checks but that of the compiled program share one start."""
    program = f"program:{exported('random', '.pt')}"
    result = run_on_ranks(
        4, "mpi_checks.py", "adjoint", *BROKEN_ADJOINTS, "attention", *BROKEN_ATTENTION, "models", program
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split(" | ") for line in result.stdout.splitlines() if " | " in line]
    return lambda check: [text for name, text in lines if name == check]


@SHARED
@pytest.mark.parametrize("check", ["adjoint", "attention", "models"])
def test_three_ranks_agree(check: str, results: Callable[[str], list[str]]) -> None:
    assert results(check) == ["agrees"] * 3


@SHARED
@pytest.mark.parametrize("check", BROKEN_ADJOINTS)
def test_a_lost_exchange_is_noticed(check: str, results: Callable[[str], list[str]]) -> None:
    found = results(check)
    assert len(found) == 3
    assert all("<A x, y> =" in text or "the adjoint of the adjoint" in text for text in found), found


@SHARED
@pytest.mark.parametrize("check", BROKEN_ATTENTION)
def test_lost_or_misdirected_gradients_of_keys_are_noticed(check: str, results: Callable[[str], list[str]]) -> None:
    found = results(check)
    assert len(found) == 3
    assert all("attention differs by" in text for text in found), found


@SHARED
def test_exported_program_gives_the_same_on_ranks(results: Callable[[str], list[str]]) -> None:
    assert results(f"program:{exported('random', '.pt')}") == ["agrees"] * 4


@COMPILED
def test_compiled_program_gives_the_same_on_ranks() -> None:
    result = run_on_ranks(4, "mpi_checks.py", f"program:{exported('random', '.pt2')}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("agrees") == 4


def test_predict_shares_structures_among_ranks(tmp_path: Path) -> None:
    file = tmp_path / "two.xyz"
    write(file, [systems.nio(), systems.water()])
    command = ["-m", "uip", "predict", str(file), "-o", str(tmp_path / "out.xyz")]
    result = run_on_ranks(2, *command)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("written:") == 1  # one rank prints
    for divided, atoms in zip(read(tmp_path / "out.xyz", ":"), (systems.nio(), systems.water()), strict=True):
        atoms.calc = Calculator("chgnet-0.3.0")
        assert divided.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert divided.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-4)


def test_what_fails_on_one_rank_ends_all(tmp_path: Path) -> None:
    file = tmp_path / "bad.xyz"
    write(file, Atoms("Og2", [[0, 0, 0], [0, 0, 2]]))
    result = run_on_ranks(2, "-m", "uip", "predict", str(file))
    assert result.returncode != 0
    assert "knows H to Pu" in result.stdout + result.stderr


@pytest.mark.parametrize("way", ["gather", pytest.param("ring", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param("kill", "Killed (signal 9)", marks=pytest.mark.slow),
        ("raise", "uip, rank 1: a deliberate failure"),
        pytest.param("memory", "uip, rank 1: .*allocate memory", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_inside_attention_ends_all(how: str, expected: str, way: str, tmp_path: Path) -> None:
    write(tmp_path / "water.xyz", systems.water())
    save_checkpoint(random_allscaip(), tmp_path / "model.ckpt")
    command = ["predict", str(tmp_path / "water.xyz"), "--model", str(tmp_path / "model.ckpt")]
    result = run_on_ranks(2, "mpi_failure.py", how, way, *command, limit=60)
    assert result.returncode != 0
    text = " ".join((result.stdout + result.stderr).split())
    assert re.search(expected.replace("(signal 9)", r"\(signal 9\)"), text), text
