"""What weights were trained for: other elements are refused, moments that were never trained are not predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import systems
import torch
from ase import Atoms
from ase.io import write
from conftest import random_chgnet
from typer.testing import CliRunner

from uip import Calculator
from uip.checkpoint import load_model, save_checkpoint
from uip.cli.app import app
from uip.models.card import Coverage
from uip.program.reader import load_program
from uip.program.writer import export_model
from uip.train.loop import train
from uip.train.metrics import read_log

SILICON, NICKEL, OXYGEN = 14, 28, 8


def trained(folder: Path, chosen: list[int], **tables: dict[str, object]) -> Path:
    """The potential after one epoch with some of `small.frames`: 1 is silicon, 2 water, 3 NiO with moments."""
    folder.mkdir()
    write(folder / "data.xyz", [small.frames(4)[k] for k in chosen])
    run = {"epochs": 1, "tensorboard": False}
    return train(small.config(folder / "run", folder / "data.xyz", run=run, **tables))


@pytest.fixture(scope="module")
def silicon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A potential of silicon alone."""
    with pytest.MonkeyPatch.context() as patch:
        small.without_figures(patch)
        return trained(tmp_path_factory.mktemp("silicon") / "data", [1])


def test_other_elements_are_refused(silicon: Path) -> None:
    assert load_model(silicon).coverage == Coverage((SILICON,), magmoms=False)
    atoms = systems.water()
    atoms.calc = Calculator(silicon)
    with pytest.raises(ValueError, match="the structure has H, O, but 'run' knows Si; use another model"):
        atoms.get_potential_energy()


def test_untrained_moments_are_not_predicted(silicon: Path) -> None:
    atoms = systems.si_rattled()
    atoms.calc = Calculator(silicon)
    atoms.get_forces()
    assert "magmoms" not in atoms.calc.results
    assert "magmoms" not in atoms.calc.implemented_properties


def test_moments_without_weight_are_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    assert load_model(trained(tmp_path / "with", [3])).coverage == Coverage((OXYGEN, NICKEL))
    without = load_model(trained(tmp_path / "without", [3], loss={"magmoms": 0.0}))
    assert without.coverage == Coverage((OXYGEN, NICKEL), magmoms=False)


def test_fine_tuning_adds_elements(silicon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    start = {"init_from": str(silicon), "architecture": {}}
    tuned = load_model(trained(tmp_path / "tuned", [3], model=start))
    assert tuned.coverage == Coverage((OXYGEN, SILICON, NICKEL))


def test_fine_tuning_of_weights_without_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    save_checkpoint(random_chgnet(), tmp_path / "old.ckpt")
    start = {"init_from": str(tmp_path / "old.ckpt"), "architecture": {}}
    tuned = load_model(trained(tmp_path / "tuned", [1], model=start))
    assert tuned.coverage is None
    assert tuned.elements == tuple(range(1, 31))


def test_validation_may_have_other_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    other = small.write_frames(tmp_path / "other.xyz", 4)
    data = {"train": [str(tmp_path / "data" / "data.xyz")], "validation": [str(other)], "test": [str(other)]}
    path = trained(tmp_path / "data", [1], data=data)
    assert load_model(path).elements == (SILICON,)
    kinds = [line["kind"] for line in read_log(path.with_name("log.jsonl"))]
    assert kinds[-2:] == ["validation", "test"]


def test_float64_weights_are_read_as_they_are(tmp_path: Path) -> None:
    model = random_chgnet()
    save_checkpoint(model, tmp_path / "model.ckpt")
    again = load_model(tmp_path / "model.ckpt", dtype="float64")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_exported_files_know_it(silicon: Path, tmp_path: Path) -> None:
    export_model(load_model(silicon), tmp_path / "silicon.pt")
    program = load_program(tmp_path / "silicon.pt")
    assert program.elements == (SILICON,)
    assert "magmoms" not in program.program_outputs
    atoms = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]])
    atoms.calc = Calculator(tmp_path / "silicon.pt")
    assert atoms.get_forces().shape == (2, 3)


def test_frozen_moments_are_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    frozen = {"architecture": small.ARCHITECTURE, "trainable": ["readout.*"]}
    assert load_model(trained(tmp_path / "frozen", [3], model=frozen)).coverage == Coverage(
        (OXYGEN, NICKEL), magmoms=False
    )


def test_a_direct_readout_needs_forces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    direct = {"architecture": {**small.ARCHITECTURE, "readout": "direct"}}
    with pytest.raises(ValueError, match="a direct readout must be trained on forces"):
        trained(tmp_path / "weight", [3], model=direct, loss={"forces": 0.0})
    atoms = small.frames(2)[1]
    del atoms.calc.results["forces"]
    write(tmp_path / "energies.xyz", atoms)
    with pytest.raises(ValueError, match="no training structure has forces"):
        train(small.config(tmp_path / "labels", tmp_path / "energies.xyz", model=direct, run={"epochs": 1}))


def test_a_torchforce_without_moments(silicon: Path, tmp_path: Path) -> None:
    atoms = systems.si_rattled()
    write(tmp_path / "silicon.xyz", atoms)
    command = ["export", silicon, "--target", "torchforce", "--structure", tmp_path / "silicon.xyz"]
    command += ["--dtype", "float64", "-o", tmp_path / "force.pt"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output


def test_validation_of_other_elements_gives_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    frames = small.frames(4)
    write(tmp_path / "silicon.xyz", frames[1])
    write(tmp_path / "others.xyz", frames[1:3])
    data = {"validation": [str(tmp_path / "others.xyz")], "test": [str(tmp_path / "silicon.xyz")]}
    messages: list[str] = []
    train(
        small.config(tmp_path / "run", tmp_path / "silicon.xyz", data=data, run={"epochs": 1}), report=messages.append
    )
    (found,) = [text for text in messages if "random weights" in text]
    assert found.startswith(
        "warning: validation structures contain H (1 structures), O (1 structures), which no training"
    )
