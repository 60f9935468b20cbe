"""The decks of docs/lammps.md run as they stand, but for their length and their models."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk
from cases import PUBLISHED, water
from export_files import exported
from lammps_run import run_lammps

PAGE = (Path(__file__).parents[2] / "docs" / "lammps.md").read_text()
DECKS = re.findall(r"```\n(units.*?)```", PAGE, re.S)


def oxide() -> Atoms:
    atoms = bulk("MnO", "rocksalt", a=4.4, cubic=True).repeat((2, 1, 1))
    atoms.symbols[0] = "Li"
    return atoms


def hydroxide() -> Atoms:
    atoms = water(2, 1)
    del atoms[-1]
    return atoms


@pytest.mark.parametrize(
    ("atoms", "symbols", "model"),
    [
        (oxide(), ["Li", "Mn", "O"], ("chgnet-0.3.0", ".pt")),
        pytest.param(oxide(), ["Li", "Mn", "O"], PUBLISHED, marks=pytest.mark.slow),
        (hydroxide(), ["O", "H"], ("allscaip-plain", ".pt")),
    ],
    ids=["CHGNet", "compiled CHGNet", "AllScAIP"],
)
def test_decks(tmp_path: Path, atoms: Atoms, symbols: list[str], model: tuple[str, ...]) -> None:
    (deck,) = (deck for deck in DECKS if re.search(rf"pair_coeff .* {' '.join(symbols)}\n", deck))
    data, file = re.findall(r"read_data +(\S+)", deck)[0], re.findall(r"pair_coeff +\* \* (\S+)", deck)[0]
    ase.io.write(tmp_path / data, atoms, format="lammps-data", specorder=symbols, masses=True)
    (tmp_path / file).symlink_to(exported(*model))
    run = run_lammps(tmp_path, deck.replace("run          1000", "run 10"), 2)
    assert run.code == 0, run.text[-3000:]
    assert "WARNING" not in run.text
    assert len(re.findall(r"^ +(?:0|10) +\S+ ", run.text, re.M)) == 2
