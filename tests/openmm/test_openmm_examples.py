"""The examples run as they stand, with a small model in place of the published one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import openmm
import pytest
import systems
from openmm_systems import case_of, context_of, small, system_of

from uip.plugins import openmm_plugin

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# what pip's entry point does for an installed uip
WITH_ENTRY_POINT = """
import runpy, sys
from openmmml import MLPotential
from uip.openmm.potential import UipPotentialImplFactory
MLPotential.registerImplFactory("uip", UipPotentialImplFactory())
sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(script: Path, folder: Path, *arguments: str) -> str:
    shutil.copy(small(), folder / "chgnet.pt2")
    command = [sys.executable, "-W", "error::UserWarning", "-c", WITH_ENTRY_POINT, str(ROOT), str(script), *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OPENMM_DEFAULT_PLATFORM": "CPU"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_scripts_are_short() -> None:
    for name in ("openmm_crystal_npt/npt.py", "openmm_mixed/mixed.py"):
        assert len((EXAMPLES / name).read_text().splitlines()) < 30
        assert (EXAMPLES / name).parent.joinpath("README.md").exists()


def test_crystal_npt(tmp_path: Path) -> None:
    pytest.importorskip("openmmml", reason="the package openmmml is not installed")
    table = run_script(EXAMPLES / "openmm_crystal_npt" / "npt.py", tmp_path, "100")
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == ["50", "100"]
    pressures = (tmp_path / "pressure.txt").read_text().splitlines()
    assert "which is all there is" in pressures[0]
    assert len(pressures) == 4


def test_mixed(tmp_path: Path) -> None:
    pytest.importorskip("openmmml", reason="the package openmmml is not installed")
    lines = run_script(EXAMPLES / "openmm_mixed" / "mixed.py", tmp_path).splitlines()
    assert [line.split()[1] for line in lines] == ["0.0", "0.5", "1.0"]


def test_cpp(tmp_path: Path) -> None:
    """The program has no Python in it, and prints the numbers of Python."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if cmake is None:
        pytest.skip("cmake is not installed")
    build = tmp_path / "build"
    for command in (
        [cmake, "-S", EXAMPLES / "openmm_cpp", "-B", build, f"-DPython_EXECUTABLE={sys.executable}"],
        [cmake, "--build", build],
    ):
        subprocess.run(command, check=True, capture_output=True)
    case = case_of(systems.nio())
    system = system_of(case, small())
    context = context_of(system, case.positions)
    state = context.getState(getPositions=True, getVelocities=True)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    (tmp_path / "state.xml").write_text(openmm.XmlSerializer.serialize(state))
    program = [str(build / "run"), str(openmm_plugin()), "system.xml", "state.xml", "5"]
    result = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env={}, check=False)
    assert result.returncode == 0, result.stderr
    energies = [float(number) for number in re.findall(r"\d  (\S+) kJ/mol", result.stdout)]
    wanted = []
    for _ in range(6):
        wanted.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
        context.getIntegrator().step(1)
    assert energies == pytest.approx(wanted, rel=1e-12)
    linked = subprocess.run(["ldd", program[0], program[1]], capture_output=True, text=True, check=True).stdout
    assert "libpython" not in linked
