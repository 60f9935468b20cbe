"""Calibration of uncertainties: linear algebra, numbers of reliability, `uip calibrate` and what reads its file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import systems
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from conftest import calibrated, random_chgnet
from typer.testing import CliRunner, Result

from uip import Calculator
from uip.checkpoint import load_model, save_checkpoint
from uip.cli.app import app
from uip.inference.calibration import REGULARISATIONS, fit
from uip.inference.reliability import reliability
from uip.models.chgnet import CHGNetConfig
from uip.train.config import make_config
from uip.train.setup import initial_model

CONFIG = CHGNetConfig(num_elements=30, channels=8, num_layers=2, num_radial=5, num_angular=5, num_readout=1)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 6)) * np.logspace(0, -2, 6)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Whatever tests ran before in this process."""
    RNG.bit_generator.state = START


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def frames(count: int, calculator: Calculator | None) -> list[Atoms]:
    """Small structures; with a calculator also energies, which differ from its own by random numbers."""
    found = []
    for seed in range(count):
        atoms = systems.si_rattled()
        atoms.rattle(0.02 + 0.01 * seed, seed=seed)
        if calculator is not None:
            energy = calculator.get_potential_energy(atoms) + 0.1 * np.random.default_rng(seed).normal()
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, labelled structures, and what `uip calibrate` makes of them."""
    path = tmp_path_factory.mktemp("calibrate")
    save_checkpoint(random_chgnet(CONFIG), path / "model.ckpt")
    write(path / "data.xyz", frames(50, Calculator(path / "model.ckpt", forces=False)))
    result = run("calibrate", path / "model.ckpt", path / "data.xyz", "-o", path / "sure.ckpt", "--json")
    assert result.exit_code == 0, result.output
    (path / "numbers.json").write_text(result.stdout)
    return path


def test_variances_follow_the_formula() -> None:
    held_out, error = FEATURES[:50], RNG.normal(size=50)
    found = fit(FEATURES, held_out, error)
    covariance = FEATURES.T @ FEATURES / len(FEATURES)
    s2 = found.calibration.record.regularisation * np.trace(covariance) / 6
    variance = np.einsum("bi,ij,bj->b", held_out, np.linalg.inv(covariance + s2 * np.eye(6)), held_out)
    factor = np.sqrt(np.mean(error**2 / variance))
    assert found.calibration.record.factor == pytest.approx(factor, rel=1e-8)
    vectors = found.calibration(torch.from_numpy(held_out)).numpy()
    np.testing.assert_allclose((vectors**2).sum(1), factor**2 * variance, rtol=1e-8)


def test_uncertainties_scale_with_errors_and_features_do_not_matter() -> None:
    error = RNG.normal(size=100)
    one, double = fit(FEATURES, FEATURES[:100], error), fit(FEATURES, FEATURES[:100], 2.0 * error)
    np.testing.assert_allclose(double.sigma, 2.0 * one.sigma, rtol=1e-9)
    scaled = fit(10.0 * FEATURES, 10.0 * FEATURES[:100], error)
    np.testing.assert_allclose(scaled.sigma, one.sigma, rtol=1e-9)


def test_errors_of_weights_are_predicted() -> None:
    """Errors x . w with random w of the covariance C^-1 have the variance x^T C^-1 x."""
    scales = np.exp(RNG.normal(size=(4000, 1)))
    features = RNG.normal(size=(4000, 6)) * np.logspace(0, -2, 6) * scales
    inverse = np.linalg.inv(features.T @ features / len(features))
    error = (features * RNG.multivariate_normal(np.zeros(6), 0.01 * inverse, size=4000)).sum(1)
    found = fit(features[:2000], features[2000:], error[2000:]).calibration.record
    assert found.factor == pytest.approx(0.1, rel=0.05)
    assert found.regularisation < 1e-3
    assert found.slope == pytest.approx(1.0, abs=0.15)
    assert found.spearman > 0.4
    assert found.miscalibration < 0.03


def test_a_singular_covariance_is_regularised() -> None:
    found = fit(np.repeat(FEATURES[:3], 10, axis=0), FEATURES[:20], RNG.normal(size=20))
    assert np.isfinite(found.sigma).all()
    assert found.calibration.record.regularisation in REGULARISATIONS


def test_reliability_of_known_numbers() -> None:
    sigma = np.repeat(np.linspace(0.1, 1.0, 10), 400)
    error = sigma * RNG.normal(size=sigma.size)
    good, large = reliability(error, sigma), reliability(error, 2.0 * sigma)
    assert good.slope == pytest.approx(1.0, abs=0.1)
    assert large.slope == pytest.approx(0.5 * good.slope, rel=1e-9)
    assert good.miscalibration < 0.02
    assert large.miscalibration > 0.1
    assert 0.3 < good.spearman < 0.6
    assert reliability(np.arange(1.0, 9.0), np.exp(np.arange(8.0))).spearman == pytest.approx(1.0)
    unsure = reliability(RNG.normal(size=100), np.ones(100))
    assert np.isnan(unsure.spearman)
    assert np.isnan(unsure.slope)


def test_the_calculator_of_a_calibrated_model(folder: Path) -> None:
    atoms = systems.si_rattled()
    plain = Calculator(folder / "model.ckpt", dtype="float64")
    atoms.calc = Calculator(folder / "sure.ckpt", dtype="float64")
    assert atoms.get_potential_energy() == pytest.approx(plain.get_potential_energy(atoms), abs=1e-9)
    results = atoms.calc.results
    assert results["energy_uncertainty"] > 0.0
    assert results["energy_uncertainties"].shape == (len(atoms),)
    assert results["energy_uncertainty"] <= results["energy_uncertainties"].sum() * (1 + 1e-9)
    assert "energy_uncertainty" in atoms.calc.implemented_properties
    assert "energy_uncertainty" not in plain.results
    energies = Calculator(folder / "sure.ckpt", dtype="float64", forces=False)
    energies.get_potential_energy(atoms)
    assert energies.results["energy_uncertainty"] == pytest.approx(results["energy_uncertainty"], rel=1e-9)


def test_committees_have_deviations_only(folder: Path) -> None:
    save_checkpoint(random_chgnet(CONFIG, seed=1), folder / "other.ckpt")
    committee = Calculator([folder / "other.ckpt", folder / "sure.ckpt"])
    committee.get_forces(systems.si_rattled())
    assert committee.results["max_force_deviation"] > 0.01
    assert "energy_uncertainty" not in committee.results
    assert "energy_uncertainty" not in committee.implemented_properties


def test_numbers_that_are_printed(folder: Path) -> None:
    numbers = json.loads((folder / "numbers.json").read_text())
    record = load_model(folder / "sure.ckpt").calibration.record
    assert (record.structures, record.held_out, numbers["structures"]) == (40, 10, 10)
    for name in ("spearman", "slope", "miscalibration"):
        assert numbers[name] == pytest.approx(getattr(record, name), rel=1e-9)


def test_predict_and_eval(folder: Path) -> None:
    data, model = folder / "data.xyz", folder / "sure.ckpt"
    rows = json.loads(run("predict", f"{data}@:2", "-m", model, "-o", folder / "out.xyz", "--json").stdout)
    written = read(folder / "out.xyz", 0)
    assert written.info["energy_uncertainty"] == pytest.approx(rows[0]["energy_uncertainty"], rel=1e-5)
    assert written.arrays["energy_uncertainties"].shape == (len(written),)
    assert "sigma E / eV" in run("predict", f"{data}@:2", "-m", model).stdout
    figures = ["--plot", folder / "parity.png", "--uncertainty-plot", folder / "sigma.png"]
    found = json.loads(run("eval", model, data, *figures, "--json").stdout)[-1]
    assert found["property"] == "energy_uncertainty"
    assert found["structures"] == 50
    assert (folder / "sigma.png").stat().st_size > 1000
    refused = run("eval", folder / "model.ckpt", data, *figures)
    assert "needs a calibrated model, but 'unnamed' has no uncertainties" in refused.output


def test_select_by_uncertainty(folder: Path) -> None:
    data, output = folder / "data.xyz", folder / "next.xyz"
    rows = json.loads(run("select", data, "-n", "2", "-m", folder / "sure.ckpt", "-o", output, "--json").stdout)
    predictions = json.loads(run("predict", data, "-m", folder / "sure.ckpt", "--json").stdout)
    largest = max(row["energy_uncertainty"] / row["atoms"] for row in predictions)
    assert rows[0]["energy_uncertainty_per_atom"] == pytest.approx(largest, rel=1e-4)
    shown = run("select", data, "-n", "2", "-m", folder / "sure.ckpt", "-o", output, "--force").stdout
    assert "sigma E / eV/atom" in shown


def test_a_new_calibration_replaces_the_old(folder: Path) -> None:
    again = run("calibrate", folder / "sure.ckpt", folder / "data.xyz", "-o", folder / "sure.ckpt", "--force")
    assert "was calibrated already; the new calibration replaces that one" in again.output
    assert again.exit_code == 0


def test_labels_of_another_scale(folder: Path) -> None:
    shifted = read(folder / "data.xyz", ":")
    for atoms in shifted:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy() - 5.0 * len(atoms))
    write(folder / "shifted.xyz", shifted)
    arguments = ("-o", folder / "shifted.ckpt", "--figure", folder / "shifted.png")
    found = run("calibrate", folder / "model.ckpt", folder / "shifted.xyz", *arguments)
    assert re.search(r"differ from the labels by \+(49|50)\d\d meV", found.output.replace("\n", " "))
    assert "miscalibration" in found.stdout
    assert (folder / "shifted.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (frames(3, None), (), "must carry energies, but no structure has any; give labelled structures"),
        ("data.xyz@:12", (), "needs 20 structures with energies for the covariance and 10 held out, got 10 and 2"),
        ("data.xyz", ("--held-out", "1.5"), "the fraction held out must lie between 0 and 1, got 1.5"),
        ([Atoms("U", pbc=False)], (), "structure 0: the structure has U, but 'unnamed' knows H to Zn"),
        ([Atoms("Si", info={"E": float("nan")})], ("--energy-key", "E"), "structure 0: energy must be finite, got nan"),
        ("data.xyz", ("--figure", "a.txt"), "the output file must end in .png or .svg or .pdf"),
    ],
)
def test_messages(folder: Path, data: object, options: tuple[str, ...], message: str) -> None:
    source = folder / str(data)
    if isinstance(data, list):
        source = folder / "bad.xyz"
        write(source, data)
    refused = run("calibrate", folder / "model.ckpt", source, "-o", folder / "bad.ckpt", *options)
    assert refused.exit_code == 1
    assert message in refused.output
    assert not (folder / "bad.ckpt").exists()


def test_an_exported_file_is_refused(folder: Path) -> None:
    refused = run("calibrate", "model.pt2", folder / "data.xyz", "-o", folder / "bad.ckpt")
    assert "a model is calibrated before it is exported, but 'model.pt2' is an exported file" in refused.output


def test_fine_tuning_starts_without_calibration(tmp_path: Path) -> None:
    save_checkpoint(calibrated(random_chgnet(CONFIG)), tmp_path / "a.ckpt")
    config = {"model": {"init_from": str(tmp_path / "a.ckpt")}, "data": {"train": ["a.xyz"]}, "run": {"folder": "a"}}
    assert initial_model(make_config(config)).calibration is None
