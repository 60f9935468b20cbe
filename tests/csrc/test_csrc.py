"""libuip from a C++ program: no Python in the process, as in LAMMPS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from export_files import exported

from uip.parallel.library import LIBRARY

SOURCES = Path(__file__).parents[2] / "uip" / "csrc"
TORCH = Path(torch.__file__).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csrc") / "libuip"
    headers = [TORCH / "include", TORCH / "include" / "torch" / "csrc" / "api" / "include"]
    command = ["c++", "-std=c++20", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    command += [f"-isystem{folder}" for folder in headers]
    command += [str(Path(__file__).with_name("libuip.cpp")), "-o", str(path)]
    for folder in (LIBRARY.parent, TORCH / "lib"):
        command += [f"-L{folder}", f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, "-luip", "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    return path


@pytest.mark.slow
@pytest.mark.xdist_group("csrc")  # one worker compiles
@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_libuip_without_python(program: Path, suffix: str) -> None:
    result = subprocess.run(
        [str(program), str(exported("random", suffix))], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "all holds\n"
