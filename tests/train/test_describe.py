"""`uip data`, and stress labels in other conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import systems
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from typer.testing import CliRunner

from uip.cli.app import app
from uip.data.dataset import Dataset, labelled_structures
from uip.data.describe import describe
from uip.train.config import make_config
from uip.train.setup import initial_model, open_data
from uip.units import EV_PER_A3_TO_GPA


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twelve structures, one of them twice, one with a wild force."""
    frames = small.frames(11)
    frames[5].calc.results["forces"][2, 1] = 4000.0
    write(tmp_path / "a.xyz", [*frames, frames[3]])
    return tmp_path / "a.xyz"


def test_describe_finds_what_was_put_in(file: Path) -> None:
    found = describe(labelled_structures(file))
    assert found.structures == 12
    assert found.periodic == 9
    assert found.duplicates == [(11, 3)]
    assert found.outliers("forces") == [5]
    assert found.outliers("stress") == []
    assert found.labelled == {"energy": 12, "forces": 12, "stress": 9, "magmoms": 3}
    assert found.elements["O"] == 9
    assert found.flat("forces").max() == pytest.approx(4000.0)


def test_the_command_shows_it(file: Path) -> None:
    plot = file.with_suffix(".png")
    result = CliRunner().invoke(app, ["data", str(file), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    for text in ("12 structures (9 periodic)", "structure 11 equals structure 3", "in structures 5", "9 of 12"):
        assert text in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, ["data", "nowhere.xyz"]).exit_code == 1


def test_a_data_store_is_described_as_its_file(file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert CliRunner().invoke(app, ["data", "build", str(file), "-o", str(store)]).exit_code == 0
    of_file, of_store = (CliRunner().invoke(app, ["data", str(source)]).stdout for source in (file, store))
    assert of_store.splitlines()[1:] == of_file.splitlines()[1:]  # but the title
    result = CliRunner().invoke(app, ["data", str(store), "--forces-key", "DFT"])
    assert result.exit_code == 1
    assert "which was built with ASE's own name, but is 'DFT'" in " ".join(result.stderr.split())
    assert CliRunner().invoke(app, ["data", str(tmp_path)]).exit_code == 1


@pytest.mark.parametrize(("unit", "sign", "factor"), [("GPa", "tension", 1.0), ("kBar", "compression", -10.0)])
def test_stress_in_other_conventions(tmp_path: Path, unit: str, sign: str, factor: float) -> None:
    atoms = systems.si_rattled()
    stress = np.array([0.01, 0.02, 0.03, 0.001, 0.002, 0.003])
    atoms.calc = SinglePointCalculator(atoms, energy=-40.0, stress=stress * EV_PER_A3_TO_GPA * factor)
    write(tmp_path / "a.xyz", atoms)
    choice = {"stress_unit": unit, "stress_sign": sign}
    config = small.config(tmp_path / "run", tmp_path / "a.xyz", data=choice)
    training: Dataset = open_data(config, initial_model(config))[0]
    expected = stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    np.testing.assert_allclose(training[0].targets.stress[0].numpy(), expected, rtol=1e-6)


def test_unknown_conventions() -> None:
    with pytest.raises(ValueError, match=r"'data\.stress_unit' must be one of eV/A\^3, GPa, kBar, got 'Pa'"):
        make_config({"data": {"train": "a", "stress_unit": "Pa"}})
    with pytest.raises(ValueError, match=r"'data\.stress_sign' must be one of tension, compression, got 'down'"):
        make_config({"data": {"train": "a", "stress_sign": "down"}})
