"""AllScAIP with weights of fairchem-core 2.24 gives the numbers of its code (tests/data/allscaip)."""

from __future__ import annotations

import numpy as np
import pytest
from fairchem_files import CHECKPOINT, VARIANTS, atoms_of, read_json, read_state

from uip import Calculator
from uip.importers.fairchem import fairchem_checkpoint
from uip.importers.published import allscaip_from_fairchem


@pytest.fixture(scope="module")
def calculators() -> dict[str, Calculator]:
    return {
        name: Calculator(allscaip_from_fairchem(read_state(name), read_json(name)["config"]), dtype="float64")
        for name in VARIANTS
    }


@pytest.mark.parametrize("name", list(read_json("plain")["systems"]))
@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_of_fairchem(calculators: dict[str, Calculator], variant: str, name: str) -> None:
    """The reference ran in float64, but see docs/models/allscaip.md: not in all its parts."""
    record = read_json(variant)["systems"][name]
    atoms = atoms_of(record)
    atoms.calc = calculators[variant]
    assert abs(atoms.get_potential_energy() - record["energy"]) <= 1e-6 * max(1.0, abs(record["energy"]))
    assert np.abs(atoms.get_forces() - record["forces"]).max() <= 2e-5
    assert ("stress" in record) == all(record["pbc"])
    if "stress" in record:
        stress = atoms.get_stress(voigt=False)
        assert np.abs(stress - record["stress"]).max() <= 1e-6


@pytest.mark.parametrize("name", list(read_json("float64")["systems"]))
@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_of_fairchem_without_float32(calculators: dict[str, Calculator], variant: str, name: str) -> None:
    """With every float32 of the reference made float64 (tests/data/allscaip/float64.py) only rounding is left."""
    record = read_json("float64")
    expected, atoms = record["answers"][variant][name], atoms_of(record["systems"][name])
    atoms.calc = calculators[variant]
    assert abs(atoms.get_potential_energy() - expected["energy"]) <= 1e-11 * max(1.0, abs(expected["energy"]))
    assert np.abs(atoms.get_forces() - expected["forces"]).max() <= 1e-11
    if "stress" in expected:
        # images at equal distance straddle the 50th neighbour of one structure: a kink under shear, no derivative
        limit = 1e-7 if name == "hundreds of images" else 1e-12
        assert np.abs(atoms.get_stress(voigt=False) - expected["stress"]).max() <= limit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(read_json("fairchem_checkpoint")))
def test_numbers_of_fairchems_calculator(name: str, dtype: str) -> None:
    """It computes in float32: 1 eV in 25000 is its last digit in energies of which references are most."""
    record = read_json("fairchem_checkpoint")[name]
    atoms = atoms_of(record)
    atoms.calc = Calculator(fairchem_checkpoint(CHECKPOINT), dtype=dtype)
    assert abs(atoms.get_potential_energy() - record["energy"]) <= 2e-3
    assert np.abs(atoms.get_forces() - record["forces"]).max() <= 1e-4
