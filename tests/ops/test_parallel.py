"""The communication ops on several ranks, over mpi4py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from export_files import exported

HERE = Path(__file__).parent


def run_on_ranks(num_ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    mpiexec = Path(sys.executable).parent / "mpiexec"
    return subprocess.run(
        [str(mpiexec), "-n", str(num_ranks), sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_each_primitive_is_the_adjoint_of_its_partner() -> None:
    result = run_on_ranks(3, "mpi_adjoint.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("agrees") == 3


@pytest.mark.parametrize("broken", ["--without-reverse", "--without-forward"])
def test_a_lost_exchange_is_noticed(broken: str) -> None:
    result = run_on_ranks(3, "mpi_adjoint.py", broken)
    assert result.returncode != 0
    assert "<A x, y> =" in result.stderr or "the adjoint of the adjoint" in result.stderr


@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_exported_programs_give_the_same_on_ranks(suffix: str) -> None:
    result = run_on_ranks(4, "mpi_program.py", str(exported("random", suffix)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("agrees") == 4
