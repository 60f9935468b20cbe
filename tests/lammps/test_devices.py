"""Which GPU a rank uses: decided by functions without MPI or CUDA, and agreed upon by all ranks."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ase.build import bulk
from lammps_run import run_lammps, write_data
from programs import Failing, write_program

HERE = Path(__file__).parent
GPU_ON_RANK_0 = """
#include <cstdlib>
#include <cstddef>
namespace torch::cuda {
size_t device_count() {
  const char *rank = std::getenv("PMI_RANK");
  return rank != nullptr && rank[0] == '0' ? 1 : 0;
}
}
"""


def test_the_choice(tmp_path: Path) -> None:
    program = tmp_path / "devices"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{HERE.parents[1] / 'lammps_plugin'}"]
    subprocess.run(["c++", *flags, str(HERE / "devices.cpp"), "-o", str(program)], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "all holds\n"


def test_a_rank_without_a_gpu(tmp_path: Path) -> None:
    """All ranks end, in place of some that wait for the one that has none."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    write_data(atoms, tmp_path / "data.atoms", ["Ni", "O"])
    (tmp_path / "count.cpp").write_text(GPU_ON_RANK_0)
    subprocess.run(["c++", "-std=c++17", "-shared", "-fPIC", "count.cpp", "-o", "count.so"], cwd=tmp_path, check=True)
    file = write_program(Failing("nothing", 0), tmp_path / "program.pt", atoms)
    deck = f"units metal\nread_data data.atoms\npair_style uip device cuda\npair_coeff * * {file} Ni O\n"
    run = run_lammps(tmp_path, deck, 2, variables={"LD_PRELOAD": str(tmp_path / "count.so")}, limit=60)
    assert run.code != 0
    assert "'device cuda' needs a GPU, and the computer of rank 1 shows none; use 'device auto'" in " ".join(
        run.text.split()
    )
