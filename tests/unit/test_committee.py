"""Committees in Python: means and deviations of members, one graph for all, and what cannot be a committee."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import systems
from ase.io import read, write
from conftest import random_allscaip, random_chgnet
from export_files import exported
from typer.testing import CliRunner, Result

from uip import Calculator
from uip.checkpoint import save_checkpoint
from uip.cli.app import app
from uip.graph.ase_io import structure_from_atoms
from uip.graph.neighbors import NeighborList
from uip.inference.committee import DEVIATIONS, load_committee
from uip.inference.evaluator import predict
from uip.models.card import Coverage
from uip.models.chgnet import CHGNetConfig
from uip.models.heads import Heads

CONFIG = CHGNetConfig(num_elements=30, channels=8, num_layers=2, num_radial=5, num_angular=5, num_readout=1)
MODELS = [random_chgnet(CONFIG, seed) for seed in range(3)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def separate(atoms: object) -> list[Calculator]:
    """A calculator of each member, after its evaluation."""
    calculators = [Calculator(model) for model in MODELS]
    for calculator in calculators:
        calculator.get_forces(atoms)
    return calculators


def test_calculator_gives_means_and_deviations() -> None:
    atoms = systems.nio()
    atoms.rattle(0.05, seed=1)
    members = separate(atoms)
    atoms.calc = Calculator(MODELS)
    for name in ("energy", "forces", "stress", "magmoms", "energies"):
        mean = np.mean([member.results[name] for member in members], axis=0)
        np.testing.assert_allclose(atoms.calc.get_property(name, atoms), mean, atol=1e-12)
    forces = np.array([member.results["forces"] for member in members])
    of_atoms = np.sqrt(((forces - forces.mean(0)) ** 2).sum(2).mean(0))
    results = atoms.calc.results
    assert of_atoms.min() > 0.01
    np.testing.assert_allclose(results["force_deviation"], of_atoms, rtol=1e-12)
    numbers = [results[f"{name}_force_deviation"] for name in ("max", "mean", "min")]
    np.testing.assert_allclose(numbers, [of_atoms.max(), of_atoms.mean(), of_atoms.min()], rtol=1e-12)
    energies = [member.results["energy"] for member in members]
    assert results["energy_deviation"] == pytest.approx(np.std(energies), rel=1e-12)
    assert set(DEVIATIONS) <= set(atoms.calc.implemented_properties)


def test_one_graph_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = NeighborList.build
    monkeypatch.setattr(NeighborList, "build", lambda self, structure: built.append(1) or original(self, structure))
    systems_ = systems.si_rattled()
    Calculator(MODELS).get_potential_energy(systems_)
    assert len(built) == 1


def test_virial_deviation_is_per_atom_and_batches_do_not_mix() -> None:
    committee = load_committee(MODELS)
    frames = [systems.nio(), systems.si_rattled()]
    together = list(predict(committee, map(structure_from_atoms, frames)))
    for atoms, prediction in zip(frames, together, strict=True):
        virials = [-member.results["stress"] * atoms.get_volume() for member in separate(atoms)]
        expected = np.std(virials, axis=0) / len(atoms)
        np.testing.assert_allclose(np.diag(prediction["virial_deviation"]), expected[:3], rtol=1e-9, atol=1e-12)
        assert prediction["force_deviation"].shape == (len(atoms),)


def test_nearly_equal_members_hardly_deviate() -> None:
    other = deepcopy(MODELS[0])
    other.reference_energy += 1.0
    calculator = Calculator([MODELS[0], other])
    calculator.get_forces(systems.nio())
    assert calculator.results["max_force_deviation"] < 1e-12
    assert calculator.results["energy_deviation"] == pytest.approx(4.0)
    assert Calculator(MODELS, forces=False).get_potential_energy(systems.nio()) == pytest.approx(
        Calculator(MODELS).get_potential_energy(systems.nio()), abs=1e-9
    )


def test_copies_describe_themselves(tmp_path: Path) -> None:
    for number, model in enumerate(MODELS[:2]):
        save_checkpoint(model, tmp_path / f"{number}.ckpt")
    files = [tmp_path / "0.ckpt", tmp_path / "1.ckpt"]
    calculator = Calculator(files, dtype="float64")
    energy = calculator.get_potential_energy(systems.nio())
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert twin.get_potential_energy(systems.nio()) == pytest.approx(energy, abs=1e-12)
    assert Calculator.from_dict(calculator.as_dict()).parameters == calculator.parameters
    assert calculator.parameters["model"] == " + ".join(map(str, files))
    assert calculator.parameters["checksum"] != Calculator(files[::-1]).parameters["checksum"]
    pickled = pickle.loads(pickle.dumps(Calculator(MODELS)))
    assert pickled.parameters["dtype"] == "float64"
    with pytest.raises(ValueError, match="only a calculator of a published name or a file can become JSON"):
        pickled.as_dict()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "a committee needs at least two models, got 0"),
        (["chgnet-0.3.0", "chgnet-0.2.0"], "must have the same cutoff, but it is 6.0 of 'chgnet-0.3.0' and 5.0"),
        ([MODELS[0], random_allscaip()], "the models of a committee share one graph and must have the same"),
        ([exported("random", ".pt"), "chgnet-0.3.0"], "must have the same precision, but it is float64 of"),
    ],
)
def test_what_is_no_committee(models: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calculator(models)


def test_models_with_and_without_moments() -> None:
    """As after trainings with other labels."""
    without = random_chgnet(CONFIG, 7)
    without.coverage = Coverage((14,), magmoms=False)
    with pytest.raises(ValueError, match=r"must have the same outputs, but .* and .* differ in magmoms; train"):
        Calculator([MODELS[0], without])


def test_predict_with_several_models(tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", [systems.nio(), systems.si_rattled()])
    models = []
    for number, model in enumerate(MODELS):
        save_checkpoint(model, tmp_path / f"{number}.ckpt")
        models += ["-m", tmp_path / f"{number}.ckpt"]
    output = tmp_path / "out.xyz"
    rows = json.loads(run("predict", tmp_path / "in.xyz", *models, "-o", output, "--json", "--dtype", "float64").stdout)
    calculator = Calculator([tmp_path / f"{number}.ckpt" for number in range(3)], dtype="float64")
    calculator.get_forces(systems.si_rattled())
    for name in set(DEVIATIONS) - {"force_deviation"}:
        assert rows[1][name] == pytest.approx(calculator.results[name], abs=1e-7)  # positions in the file are rounded
    written = read(output, 1)
    np.testing.assert_allclose(written.arrays["force_deviation"], calculator.results["force_deviation"], atol=1e-7)
    assert written.info["max_force_deviation"] == pytest.approx(rows[1]["max_force_deviation"], abs=1e-7)
    shown = run("predict", tmp_path / "in.xyz", *models).stdout
    assert "committee of 3: unnamed + unnamed + unnamed, float32" in shown
    assert "max dev F / eV/A" in shown


def test_levels_of_theory_are_no_committee() -> None:
    heads = Heads.of(random_chgnet(), ["pbe", "r2scan"]).heads
    with pytest.raises(ValueError, match="must have the same head, but 'unnamed \\(pbe\\)' has 'pbe' and"):
        Calculator(list(heads.values()))


def test_one_model_twice_is_no_committee() -> None:
    with pytest.raises(ValueError, match="the models of a committee must differ, but 'unnamed' is there twice"):
        load_committee([MODELS[0], MODELS[1], deepcopy(MODELS[0])])


def test_one_file_twice_is_no_committee(tmp_path: Path) -> None:
    """Programs too, under another name."""
    file = exported("random", ".pt")
    shutil.copy(file, tmp_path / "copy.pt")
    for other in (file, tmp_path / "copy.pt"):
        with pytest.raises(ValueError, match=r"must differ, but .* has the content of"):
            load_committee([file, other])
