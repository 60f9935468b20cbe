"""Fine-tuning what was imported from fairchem: it knows some elements only."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from fairchem_files import CHECKPOINT

from uip import Calculator
from uip.checkpoint import load_model, save_checkpoint
from uip.importers.fairchem import fairchem_checkpoint
from uip.models.allscaip import AllScAIP
from uip.train.loop import train

SHIFT = 0.5
"""eV per hydrogen atom, between predictions and labels."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    frames, calculator = [], Calculator(fairchem_checkpoint(CHECKPOINT), dtype="float64")
    for name in ("H2O", "H2", "OH", "CO", "CH4"):
        atoms = molecule(name)
        atoms.set_initial_magnetic_moments(None)
        atoms.calc = calculator
        energy = atoms.get_potential_energy() + SHIFT * int((atoms.numbers == 1).sum())
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces())
        frames.append(atoms)
    write(tmp_path / "shifted.xyz", frames)
    return tmp_path / "shifted.xyz"


def test_references_are_corrected_by_element(data: Path, tmp_path: Path) -> None:
    start = fairchem_checkpoint(CHECKPOINT)
    save_checkpoint(start, tmp_path / "start.ckpt")
    model = {"kind": "allscaip", "architecture": {"smooth": True}, "init_from": str(tmp_path / "start.ckpt")}
    optim = {"learning_rate": 1e-9, "ema": 0.0}
    train(small.config(tmp_path / "run", data, model=model, optim=optim, run={"epochs": 1, "dtype": "float32"}))
    tuned = load_model(tmp_path / "run" / "best.ckpt")
    assert isinstance(tuned, AllScAIP)
    assert tuned.config.smooth
    assert tuned.elements == start.elements
    change = tuned.reference_energy - start.reference_energy
    expected = {1: SHIFT, 6: 0.0, 8: 0.0, 14: 0.0}
    # the smooth form of the weights gives slightly other numbers for these molecules
    assert {number: float(change[number]) for number in expected} == pytest.approx(expected, abs=0.1)
    assert change[1] != 0.0
    assert change[14] == 0.0
