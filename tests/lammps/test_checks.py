"""What `pair_style uip` checks before and during a run, and what it reports of its memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ase.build import bulk
from lammps_run import run_lammps, write_data
from programs import Failing, write_program

CELL = bulk("NiO", "rocksalt", a=4.17, cubic=True)
START = """
units metal
read_data data.atoms
{after}
pair_style uip
pair_coeff * * {file} Ni O
"""
MASSES = "mass 1 58.69\nmass 2 15.999"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_data(CELL, tmp_path / "data.atoms", ["Ni", "O"])
    return write_program(Failing("nothing", 0), tmp_path / "program.pt", CELL)


def text_of(file: Path, deck: str, num_ranks: int = 2, *, after: str = MASSES, ends: int = 0) -> str:
    """What a run printed; `ends`: with 0 for success, else for failure."""
    start = START.format(after=after, file=file)
    run = run_lammps(file.parent, start + deck, num_ranks, limit=60)
    assert (run.code != 0) == bool(ends), run.text[-3000:]
    return " ".join(run.text.split())


def test_masses_of_atoms(file: Path) -> None:
    """Where atoms have masses of their own, each is compared; the one that deviates is on one of two ranks."""
    after = "fix own all property/atom rmass\nset type 1 mass 58.69\nset type 2 mass 15.999"
    assert "with a mass of" not in text_of(file, "run 0\n", after=after)
    text = text_of(file, "run 0\n", after=after + "\nset atom 8 mass 58.69")
    assert text.count("LAMMPS type 2 is O with a mass of 58.69 g/mol, where 15.999 is usual") == 1
    assert "LAMMPS type 1 is" not in text


def test_positions_that_are_no_numbers(file: Path) -> None:
    """The atom is named, also where only its image is seen."""
    deck = "neigh_modify delay 100 every 100 check no\nvariable bad equal exp(1000)-exp(1000)\ngroup one id 8\n"
    deck += "fix force one setforce v_bad 0 0\nfix move all nve\nrun 5\n"
    text = text_of(file, deck, ends=1)
    assert re.search(r"positions must be finite, but atom 8 is at -?nan", text)
    assert "A apart" not in text


def test_memory_contains_the_graph(file: Path) -> None:
    """At least 100 bytes for each of the pairs within cutoff and skin of 512 atoms."""
    write_data(CELL.repeat((4, 4, 4)), file.parent / "data.atoms", ["Ni", "O"])
    start = "units metal\nread_data data.atoms\nmass * 1\n"
    (file.parent / "zero").mkdir()
    write_data(CELL.repeat((4, 4, 4)), file.parent / "zero" / "data.atoms", ["Ni", "O"])
    zero = run_lammps(file.parent / "zero", start + "pair_style zero 5.0 full\npair_coeff * *\nrun 0\n", 1).text
    with_graph, without = (
        float(re.search(r"Per MPI rank memory allocation \(min/avg/max\) = ([\d.]+)", text).group(1))
        for text in (text_of(file, "run 0\n", 1), zero)
    )
    assert with_graph - without > 512 * 60 * 100 / 2**20
