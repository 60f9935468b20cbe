"""Restart files: which model file they name, and which one ranks read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ase.build import bulk
from lammps_run import BIN, environment_of, run_lammps, write_data
from programs import Failing, write_program

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
START = "units metal\nread_data data.atoms\nmass 1 58.69\nmass 2 15.999\npair_style uip\n"
COEFF = "pair_coeff * * model.pt Ni O\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    write_program(Failing("nothing", 0), tmp_path / "model.pt", ATOMS)
    return tmp_path


def run_in(folders: list[Path], deck: str) -> str:
    """What one rank in each of the folders printed; rank 0 reads the deck from the first."""
    (folders[0] / "in.deck").write_text(deck)
    command = [str(BIN / "mpiexec")]
    for folder in folders:
        command += ["-n", "1", "-wdir", str(folder), str(BIN / "lmp"), "-in", "in.deck", "-nocite", ":"]
    run = subprocess.run(command[:-1], env=environment_of(), capture_output=True, text=True, check=False, timeout=120)
    return " ".join((run.stdout + run.stderr).split())


def two_folders(folder: Path) -> list[Path]:
    """The folder and one with another model under the same name."""
    other = folder / "other"
    other.mkdir()
    write_data(ATOMS, other / "data.atoms", ["Ni", "O"])
    write_program(Failing("nothing", 0), other / "model.pt", ATOMS, provenance="another")
    return [folder, other]


MESSAGE = "all ranks must read the same model file, but 'model.pt' has sha256"


def test_ranks_with_different_files(folder: Path) -> None:
    """As on computers with a folder of their own each: refused by pair_coeff."""
    text = run_in(two_folders(folder), START + COEFF + "run 0\n")
    assert MESSAGE in text
    assert "on rank 1; copy one file to all computers" in text
    assert "Loop time" not in text


def test_ranks_with_different_files_at_a_restart(folder: Path) -> None:
    """The file of the restart file is gone: its name in the current folders is another file on another rank."""
    home = folder / "home"
    home.mkdir()
    (folder / "model.pt").rename(home / "model.pt")
    deck = START + "pair_coeff * * home/model.pt Ni O\nrun 0\nwrite_restart begin\n"
    assert run_lammps(folder, deck, 1).code == 0
    (home / "model.pt").rename(folder / "model.pt")
    text = run_in(two_folders(folder), "read_restart begin\nrun 0\n")
    assert "home/model.pt: no such file" in text
    assert "Loop time" not in text
    assert "Loop time" in run_in([folder], "read_restart begin\nrun 0\n")


def test_a_restart_from_another_folder(folder: Path) -> None:
    """Relative paths of pair_coeff belong to the folder of the run that wrote the restart file."""
    assert run_lammps(folder, START + COEFF + "run 0\nshell mkdir sub\nwrite_restart sub/begin\n", 2).code == 0
    run = run_lammps(folder / "sub", "read_restart begin\nrun 0\n", 2)
    assert run.code == 0, run.text


def test_a_damaged_restart_file(folder: Path) -> None:
    """The length of the model's path, before it."""
    assert run_lammps(folder, START + COEFF + "run 0\nwrite_restart begin\n", 1).code == 0
    content = (folder / "begin").read_bytes()
    place = content.index(str(folder).encode()) - 1
    (folder / "begin").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    run = run_lammps(folder, "read_restart begin\nrun 0\n", 2)
    assert run.code != 0
    assert "ERROR on proc 0: pair_style uip: the restart file is damaged; use another one" in run.text


def test_a_restart_without_a_model(folder: Path) -> None:
    """`write_restart ... noinit` before pair_coeff."""
    run = run_lammps(folder, START + "write_restart begin noinit\n", 2)
    assert run.code == 0, run.text
    run = run_lammps(folder, "read_restart begin\nrun 0\n", 2)
    assert run.code != 0
    assert "the restart file was written before a pair_coeff command; give one after read_restart" in " ".join(
        run.text.split()
    )
    run = run_lammps(folder, "read_restart begin\n" + COEFF + "run 0\n", 2)
    assert run.code == 0, run.text


def test_a_lost_model_is_named_in_the_next_restart_file_too(folder: Path) -> None:
    assert run_lammps(folder, START + COEFF + "run 0\nwrite_restart begin\n", 1).code == 0
    (folder / "model.pt").rename(folder / "lost.pt")
    assert run_lammps(folder, "read_restart begin\nwrite_restart again noinit\n", 1).code == 0
    (folder / "lost.pt").rename(folder / "model.pt")
    run = run_lammps(folder, "read_restart again\nrun 0\n", 1)
    assert run.code == 0, run.text
