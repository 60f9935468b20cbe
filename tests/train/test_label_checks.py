"""Labels that look inverted or in other units are noticed, and good ones are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import systems
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import random_chgnet
from typer.testing import CliRunner

from uip import Calculator
from uip.checkpoint import save_checkpoint
from uip.cli.app import app
from uip.data.dataset import Dataset, labelled_structures
from uip.data.describe import describe
from uip.data.label_checks import UNITS, bulk_modulus, label_warnings, summarise, warnings_against_model
from uip.inference.evaluator import load_evaluator, predict
from uip.train.loop import train
from uip.train.setup import initial_model, open_data
from uip.units import EV_PER_A3_TO_GPA

MODULUS = 100.0  # GPa


def strained(stress_factor: float = 1.0, energy_factors: dict[int, float] | None = None) -> list[Atoms]:
    """Silicon, stretched and pressed, with the stress and energy of a spring of 100 GPa."""
    frames, rng = [], np.random.default_rng(0)
    for k, strain in enumerate(np.linspace(-0.06, 0.06, 13)):
        atoms = systems.si_rattled()
        atoms.set_cell(atoms.cell * np.exp(strain / 3), scale_atoms=True)
        tension = (MODULUS * strain + rng.normal(0.0, 0.3)) / EV_PER_A3_TO_GPA
        energy = -5.4 * len(atoms) + 0.5 * MODULUS / EV_PER_A3_TO_GPA * strain**2 * atoms.get_volume()
        labels = {"energy": energy * (energy_factors or {}).get(k, 1.0), "stress": stress_factor * tension * np.eye(3)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def warnings_of(path: Path, frames: list[Atoms]) -> list[str]:
    write(path, frames)
    return label_warnings(describe(labelled_structures(path)).summary)


def test_good_labels_give_no_warning(tmp_path: Path) -> None:
    assert warnings_of(tmp_path / "a.xyz", strained()) == []
    modulus, correlation, count = bulk_modulus(describe(labelled_structures(tmp_path / "a.xyz")).summary)
    assert modulus == pytest.approx(MODULUS, rel=0.06)
    assert correlation > 0.99
    assert count == 13
    assert warnings_of(tmp_path / "b.xyz", small.frames(8)) == []  # random labels: no warning is possible


def hot_and_strained(element: str) -> list[Atoms]:
    """Supercells at several densities, cold and very hot, labelled by the published CHGNet."""
    calculator, frames = Calculator("chgnet-0.3.0"), []
    for k, strain in enumerate(np.linspace(-0.08, 0.08, 17)):
        atoms = bulk(element, cubic=True).repeat((2, 1, 1))
        atoms.set_cell(atoms.cell * np.exp(strain / 3), scale_atoms=True)
        atoms.rattle((0.02, 0.15, 0.3)[k % 3], seed=k)
        atoms.calc = calculator
        labels = {"energy": atoms.get_potential_energy(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize(("element", "modulus"), [("Si", 90.0), ("Mo", 260.0)])
def test_labels_of_a_real_potential_give_no_warning(element: str, modulus: float, tmp_path: Path) -> None:
    """Hot frames among strained ones: the right order of magnitude, which is all that a unit needs."""
    write(tmp_path / "a.xyz", hot_and_strained(element))
    summary = describe(labelled_structures(tmp_path / "a.xyz")).summary
    assert label_warnings(summary) == []
    assert modulus / 3 < bulk_modulus(summary)[0] < 1.5 * modulus


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (-1.0, 'GPa: its sign looks inverted; try stress_sign = "compression"'),
        (EV_PER_A3_TO_GPA, "its unit looks wrong; try stress_unit = 'GPa' or 'kBar'"),
        (10 * EV_PER_A3_TO_GPA, "its unit looks wrong; try stress_unit = 'kBar'"),
        (-10 * EV_PER_A3_TO_GPA, "sign and unit look wrong, as of stress in kBar from VASP"),
        (1e-3, "too soft for a solid, its unit looks wrong"),
    ],
)
def test_stress_in_other_units(tmp_path: Path, factor: float, message: str) -> None:
    (found,) = warnings_of(tmp_path / "a.xyz", strained(factor))
    assert message in found
    assert "over 13 structures" in found


@pytest.mark.parametrize("unit", sorted(UNITS["energy"]))
def test_energies_in_two_units(tmp_path: Path, unit: str) -> None:
    (found,) = warnings_of(tmp_path / "a.xyz", strained(1.0, {2: UNITS["energy"][unit], 5: UNITS["energy"][unit]}))
    assert found.startswith(f"energies of structures 2, 5 look like {unit} among others")


def test_an_energy_per_atom_among_totals(tmp_path: Path) -> None:
    (found,) = warnings_of(tmp_path / "a.xyz", strained(1.0, {4: 1 / 8}))
    assert found.startswith("energies of structure 4 look like eV/atom")


def test_energies_of_both_signs_have_no_unit(tmp_path: Path) -> None:
    """Energies of a force field are often near zero; some are 1 / 13.6 of others by chance."""
    frames = strained()
    for k, atoms in enumerate(frames):
        energy = (1.0, 1.0, 1 / 13.6057, -0.5)[k % 4] * len(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, stress=atoms.get_stress())
    assert warnings_of(tmp_path / "a.xyz", frames) == []


def pairs(factors: dict[str, list[float]]) -> tuple[list[dict], list[dict]]:
    """Predictions of ten structures, and labels that are them times a factor and a bit of noise."""
    rng = np.random.default_rng(0)
    predictions = [{"forces": rng.normal(size=(8, 3)), "stress": 0.1 * rng.normal(size=(3, 3))} for _ in range(10)]
    labels = [
        {name: factors[name][k] * 0.8 * value * rng.uniform(0.9, 1.1, value.shape) for name, value in one.items()}
        for k, one in enumerate(predictions)
    ]
    return labels, predictions


def test_labels_against_a_model() -> None:
    fine = [1.0] * 10
    assert warnings_against_model(*pairs({"forces": fine, "stress": fine})) == []
    (found,) = warnings_against_model(*pairs({"forces": [-1.0] * 10, "stress": fine}))
    assert found.startswith("forces are -0.8")
    assert found.endswith("they look inverted")
    (found,) = warnings_against_model(*pairs({"forces": fine, "stress": [-10 * EV_PER_A3_TO_GPA] * 10}))
    assert found.endswith("they look given in kBar and inverted")
    (found,) = warnings_against_model(*pairs({"forces": [1.0] * 7 + [1 / 51.4221] * 3, "stress": fine}))
    assert found == "forces of structures 7, 8, 9 look given in hartree/bohr, unlike the rest"
    soft = pairs({"forces": [0.6] * 7 + [1.0] * 3, "stress": fine})  # a model that is off by half, not labels
    assert warnings_against_model(*soft) == []
    unrelated = pairs({"forces": fine, "stress": fine})[1]
    assert warnings_against_model([{"forces": np.roll(one["forces"], 5)} for one in unrelated], unrelated) == []


def test_shear_stresses_in_another_order() -> None:
    rng = np.random.default_rng(0)
    symmetric = [value + value.T for value in rng.normal(size=(6, 3, 3))]
    predictions = [{"stress": value} for value in symmetric]
    assert warnings_against_model([{"stress": 1.2 * value} for value in symmetric], predictions) == []
    turned = [{"stress": value[[1, 0, 2]][:, [1, 0, 2]]} for value in symmetric]
    for k, value in enumerate(symmetric):
        turned[k]["stress"][[0, 1], [0, 1]] = value[[0, 1], [0, 1]]  # yz and xz alone are exchanged
    (found,) = [text for text in warnings_against_model(turned, predictions) if "shear" in text]
    assert "yz is labelled xz, xz is labelled yz; check the Voigt order of the file" in found


def test_shear_stresses_of_a_file_in_another_order(tmp_path: Path) -> None:
    """A file whose Voigt order is not ASE's (yz and xz exchanged), against a model."""
    frames, calculator = [], Calculator("chgnet-0.3.0")
    for k in range(6):
        atoms = systems.si_rattled()
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * np.random.default_rng(k).normal(size=(3, 3))), scale_atoms=True)
        atoms.calc = calculator
        stress = atoms.get_stress()[[0, 1, 2, 4, 3, 5]]
        atoms.calc = SinglePointCalculator(atoms, stress=stress)
        frames.append(atoms)
    write(tmp_path / "a.xyz", frames)
    read = [(structure, labels) for _, structure, labels in labelled_structures(tmp_path / "a.xyz")]
    predictions = list(predict(load_evaluator("chgnet-0.3.0"), (structure for structure, _ in read)))
    found = warnings_against_model([labels for _, labels in read], predictions)
    assert any("yz is labelled xz, xz is labelled yz" in text for text in found)


def test_the_command_compares_with_a_model(tmp_path: Path) -> None:
    frames = small.frames(8)
    for atoms in frames:
        atoms.calc.results["forces"] = -atoms.calc.results["forces"]
    write(tmp_path / "a.xyz", frames)
    save_checkpoint(random_chgnet(), tmp_path / "model.ckpt")
    result = CliRunner().invoke(app, ["data", str(tmp_path / "a.xyz"), "--against", str(tmp_path / "model.ckpt")])
    assert result.exit_code == 0, result.output
    assert "warning: forces are -1 times the prediction: they look inverted" in result.stdout


def test_training_prints_label_warnings(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", strained(-1.0))
    messages: list[str] = []
    train(small.config(tmp_path / "run", tmp_path / "a.xyz", run={"epochs": 1}), report=messages.append)
    assert any("warning: over 13 structures stress changes with volume" in text for text in messages)
    fixed = small.config(tmp_path / "other", tmp_path / "a.xyz", data={"stress_sign": "compression"})
    data: Dataset = open_data(fixed, initial_model(fixed))[0]
    assert label_warnings(summarise(data)) == []
