"""Arguments of the calculator: none is ignored; and its description of itself."""

from __future__ import annotations

from pathlib import Path

import ase.db
import numpy as np
import pytest
import systems
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from conftest import random_allscaip, random_chgnet
from export_files import exported

import uip
from uip import Calculator, UIPCalculator
from uip.checkpoint import save_checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtpye": "float64"}, "Calculator has no argument `dtpye`; did you mean 'dtype'?"),
        ({"use_device": "cpu"}, "no argument `use_device`; did you mean 'device'?"),
        ({"model_path": "x.ckpt"}, "no argument `model_path`; "),
        ({"precision": "float64"}, "no argument `precision`; known: "),
        ({"charge": 1}, r"`charge` belongs to the atoms, not to Calculator; set atoms\.info\['charge'\]"),
    ],
)
def test_unknown_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Calculator("chgnet-0.3.0", **arguments)
    with pytest.raises(TypeError, match=message):
        Calculator("chgnet-0.3.0").set(**arguments)


def test_set_changes_the_model() -> None:
    atoms = systems.nio()
    atoms.calc = Calculator("chgnet-0.3.0")
    rough = atoms.get_potential_energy()
    assert atoms.calc.set(dtype="float64") == {"dtype": "float64"}
    assert not atoms.calc.results
    exact = Calculator("chgnet-0.3.0", dtype=torch.float64).get_potential_energy(atoms)
    assert atoms.get_potential_energy() == pytest.approx(exact, abs=1e-10)
    assert atoms.get_potential_energy() != rough
    assert atoms.calc.set(dtype="float64") == {}
    assert atoms.calc.set(model="chgnet-0.2.0", skin=0.0) == {"model": "chgnet-0.2.0", "skin": 0.0}
    assert atoms.calc.name == "chgnet-0.2.0"
    assert atoms.calc.neighbors.skin == 0.0


def test_a_failed_set_changes_nothing() -> None:
    atoms = systems.nio()
    atoms.calc = Calculator("chgnet-0.3.0")
    energy = atoms.get_potential_energy()
    with pytest.raises(ValueError, match="`dtype` must be"):
        atoms.calc.set(dtype="float16")
    assert atoms.calc.parameters["dtype"] == "float32"
    assert atoms.get_potential_energy() == energy


def test_torch_values_are_taken() -> None:
    calculator = Calculator("chgnet-0.3.0", dtype=torch.float64, device=torch.device("cpu"))
    assert calculator.evaluator.potential.dtype == torch.float64
    assert Calculator(exported("random", ".pt"), dtype=torch.float64).parameters["dtype"] == "float64"


def test_description(tmp_path: Path) -> None:
    calculator = UIPCalculator("chgnet-0.3.0", dtype="float64")
    parameters = calculator.todict()
    assert calculator.name == "chgnet-0.3.0"
    assert parameters == calculator.parameters
    assert (parameters["version"], parameters["dtype"], parameters["device"]) == (uip.__version__, "float64", "cpu")
    assert len(parameters["checksum"]) == 64
    assert f"chgnet-0.3.0, float64 on cpu, uip {uip.__version__}, sha256 {parameters['checksum'][:12]}" in repr(
        calculator
    )
    atoms = systems.nio()
    atoms.calc = calculator
    atoms.get_forces()
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(atoms)
    row = next(ase.db.connect(tmp_path / "rows.db").select())
    assert row.calculator == "chgnet-0.3.0"
    assert row.calculator_parameters == parameters


def test_checksums(tmp_path: Path) -> None:
    """Of a file, of a program, of weights in memory: other weights, another checksum."""
    save_checkpoint(random_chgnet(), tmp_path / "a.ckpt")
    found = {
        Calculator(source).parameters["checksum"]
        for source in (tmp_path / "a.ckpt", exported("random", ".pt"), random_chgnet(), random_chgnet(seed=1))
    }
    assert len(found) == 4
    again = Calculator(random_chgnet())
    assert again.parameters["checksum"] in found


def test_properties_are_those_of_the_model() -> None:
    chgnet = Calculator("chgnet-0.3.0")
    assert {"stress", "stresses", "magmoms", "magmom"} <= set(chgnet.implemented_properties)
    allscaip = Calculator(random_allscaip())
    assert "magmoms" not in allscaip.implemented_properties
    assert "stress" in allscaip.implemented_properties
    direct = Calculator(random_allscaip(readout="direct"))
    assert not {"stress", "stresses", "magmoms"} & set(direct.implemented_properties)
    atoms = systems.nio()
    atoms.calc = chgnet
    assert atoms.get_magnetic_moment() == pytest.approx(atoms.get_magnetic_moments().sum())


@pytest.mark.parametrize("name", ["nio", "skewed_cell"])
def test_stresses_sum_to_the_stress(name: str) -> None:
    for model in (random_chgnet(), random_allscaip(radial=True)):
        atoms = systems.PERIODIC[name]()
        atoms.numbers = np.where(atoms.numbers > 20, 8, atoms.numbers)
        atoms.calc = Calculator(model)
        stresses = atoms.get_stresses()
        assert stresses.shape == (len(atoms), 6)
        np.testing.assert_allclose(stresses.sum(axis=0), atoms.get_stress(), atol=1e-10)
    molecule = systems.water()
    molecule.calc = Calculator(random_chgnet())
    with pytest.raises(PropertyNotImplementedError):
        molecule.get_stresses()
