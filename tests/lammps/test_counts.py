"""Messages beyond 2^31 bytes: numbers of rows and bytes of `pair_style uip`, from a C++ program without MPI."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def test_counts_beyond_32_bits(tmp_path: Path) -> None:
    program = tmp_path / "counts"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    plugin = HERE.parents[1] / "lammps_plugin"
    subprocess.run(["c++", *flags, f"-I{plugin}", str(HERE / "counts.cpp"), "-o", str(program)], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "all holds\n"
