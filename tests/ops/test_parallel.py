"""The communication ops on several ranks, over mpi4py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import systems
from ase import Atoms
from ase.io import read, write
from conftest import random_allscaip
from export_files import exported

from uip import Calculator
from uip.checkpoint import save_checkpoint

HERE = Path(__file__).parent


def run_on_ranks(num_ranks: int, *arguments: str, limit: float = 240) -> subprocess.CompletedProcess[str]:
    mpiexec = Path(sys.executable).parent / "mpiexec"
    return subprocess.run(
        [str(mpiexec), "-n", str(num_ranks), sys.executable, "-m", "mpi4py", *arguments],
        # ranks that wait leave the core to those that work (MPICH): there are more of them than cores
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parents[1]),
            "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
        },
        cwd=HERE,
        capture_output=True,
        encoding="utf-8",
        timeout=limit,
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


def test_attention_over_all_ranks_is_that_of_one() -> None:
    result = run_on_ranks(3, "mpi_attention.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("agrees") == 3


@pytest.mark.parametrize("broken", ["--without-reduce", "--wrong-order"])
def test_lost_or_misdirected_gradients_of_keys_are_noticed(broken: str) -> None:
    result = run_on_ranks(3, "mpi_attention.py", broken)
    assert result.returncode != 0
    assert "attention differs by" in result.stderr


def test_divided_structures_give_the_same_on_ranks() -> None:
    result = run_on_ranks(3, "mpi_model.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("agrees") == 3


def test_predict_shares_structures_among_ranks(tmp_path: Path) -> None:
    file = tmp_path / "two.xyz"
    write(file, [systems.nio(), systems.water()])
    command = ["-m", "uip", "predict", str(file), "-o", str(tmp_path / "out.xyz")]
    result = run_on_ranks(2, *command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("written:") == 1  # one rank speaks
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


@pytest.mark.parametrize("way", ["gather", "ring"])
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param("kill", "Killed (signal 9)", marks=pytest.mark.slow),
        ("raise", "uip, rank 1: a deliberate failure"),
        ("memory", "uip, rank 1: .*allocate memory"),
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
