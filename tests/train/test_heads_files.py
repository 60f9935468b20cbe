"""Checkpoints of several heads: one copy of the trunk, the choice of a head, exported files, commands."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import small
import systems
import torch
from conftest import calibrated, random_chgnet
from documentation_files import write_labelled
from two_heads import two_heads, write_files
from typer.testing import CliRunner

import uip.checkpoint
from uip import Calculator
from uip.checkpoint import head_names, load_heads, load_model, save_checkpoint
from uip.cli.app import app
from uip.inference.evaluator import load_evaluator
from uip.models.chgnet import CHGNet
from uip.models.heads import Heads
from uip.program.reader import load_program
from uip.program.writer import export_model
from uip.train.config import read_config
from uip.train.loop import train

TRAINING = Path(__file__).parents[2] / "docs" / "training.md"
HEADS = ("pbe", "meta")


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model with two heads; its folder has the data of both."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        small.without_figures(patch)
        config = two_heads(folder / "run", write_files(folder), run={"epochs": 1, "dtype": "float32"})
        return train(config).rename(folder / "two.ckpt")


def forces(calculator: Calculator) -> np.ndarray:
    atoms = systems.nio()
    atoms.calc = calculator
    return atoms.get_forces()


def test_round_trip(tmp_path: Path) -> None:
    """Of weights, names, coverage and calibration of each head; the file has the trunk once."""
    model = random_chgnet()
    save_checkpoint(model, tmp_path / "one.ckpt")
    heads = Heads.of(model, HEADS)
    with torch.no_grad():
        for parameter in heads.heads["meta"].readout.parameters():
            parameter.mul_(1.1)
    calibrated(heads.heads["meta"])
    save_checkpoint(heads, tmp_path / "two.ckpt")
    again = load_heads(tmp_path / "two.ckpt", dtype="float64")
    assert isinstance(again, Heads)
    assert head_names(tmp_path / "two.ckpt") == HEADS
    assert head_names(tmp_path / "one.ckpt") == head_names("chgnet-0.3.0") == ()
    wanted = heads.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.state_dict().items())
    assert again.heads["pbe"].calibration is None
    assert torch.equal(again.heads["meta"].calibration.projection, heads.heads["meta"].calibration.projection)
    sizes = [(tmp_path / name).stat().st_size for name in ("one.ckpt", "two.ckpt")]
    more = 8 * (sum(p.numel() for p in heads.parameters()) - sum(p.numel() for p in model.parameters()) + 16 * 16 + 30)
    # entries of an archive are aligned, and have names: the second head's tensors, and the list of all
    assert sizes[1] - sizes[0] < more + 600 * len(wanted)
    assert len(pickle.dumps(list(wanted))) < 600 * len(wanted)


def test_an_earlier_reader_refuses_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(Heads.of(random_chgnet(), HEADS), tmp_path / "two.ckpt")
    save_checkpoint(random_chgnet(), tmp_path / "one.ckpt")
    monkeypatch.setattr(uip.checkpoint, "HEADS_VERSION", 1)
    assert load_model(tmp_path / "one.ckpt").name == "chgnet"
    with pytest.raises(ValueError, match=r"two\.ckpt was written with schema 2, this build reads 1; update uip"):
        load_model(tmp_path / "two.ckpt")


def test_the_choice_of_a_head(best: Path, tmp_path: Path) -> None:
    for load in (load_model, load_evaluator, Calculator):
        with pytest.raises(
            ValueError, match=r"two\.ckpt' has several heads, pbe, meta; choose one of them with --head"
        ):
            load(best)
        with pytest.raises(ValueError, match=r"two\.ckpt' has no head 'metaa'; did you mean 'meta'"):
            load(best, head="metaa")
        with pytest.raises(ValueError, match=r"'chgnet-0\.3\.0' has no head 'pbe': it has only one, without a name"):
            load("chgnet-0.3.0", head="pbe")
    model = load_model(best, head="meta", dtype="float64")
    assert model.card.name == "run (meta)"
    save_checkpoint(model, tmp_path / "alone.ckpt")
    for head in (None, "meta"):
        alone = load_model(tmp_path / "alone.ckpt", head=head, dtype="float64")
        assert alone.head == "meta"
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in alone.state_dict().items())
    with pytest.raises(ValueError, match=r"alone\.ckpt' has no head 'pbe'; known: meta"):
        load_model(tmp_path / "alone.ckpt", head="pbe")


def test_calculators_keep_their_head(best: Path) -> None:
    calculator = Calculator(best, head="meta")
    wanted = forces(calculator)
    assert np.array_equal(forces(pickle.loads(pickle.dumps(calculator))), wanted)
    assert np.array_equal(forces(Calculator.from_dict(json.loads(json.dumps(calculator.as_dict())))), wanted)
    assert repr(calculator).startswith("<uip.Calculator run (meta), ")
    calculator.set(head="pbe")
    assert np.abs(forces(calculator) - wanted).max() > 1e-6
    assert np.array_equal(forces(calculator), forces(Calculator(best, head="pbe")))
    assert np.array_equal(forces(Calculator(load_model(best, head="meta"), head="meta")), wanted)


def test_an_exported_file_is_one_head(best: Path, tmp_path: Path) -> None:
    """With the predictions of the checkpoint; as large as the file of a model with the same weights and no heads."""
    models = {head: load_model(best, head=head, dtype="float64") for head in HEADS}
    one = CHGNet(models["meta"].config).double()
    one.load_state_dict(models["meta"].state_dict())
    one.coverage = models["meta"].coverage
    for name, model in {**models, "one": one}.items():
        export_model(model, tmp_path / f"{name}.pt")
    sizes = [(tmp_path / f"{name}.pt").stat().st_size for name in ("meta", "one")]
    assert abs(sizes[0] - sizes[1]) < 500
    assert load_program(tmp_path / "one.pt").head == ""
    for head in HEADS:
        program = load_program(tmp_path / f"{head}.pt")
        assert program.metadata["head"] == program.head == head
        assert program.card.name == f"run ({head})"
        found = forces(Calculator(tmp_path / f"{head}.pt", head=head))
        assert found == pytest.approx(forces(Calculator(best, head=head)), abs=2e-5)
        with pytest.raises(ValueError, match=rf"`head` is third, but 'run \({head}\)' was exported for {head}; leave"):
            Calculator(tmp_path / f"{head}.pt", head="third")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> tuple[int, str]:
    """Exit code and output of a command in `folder`."""
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, command.split())
    return result.exit_code, result.output


def test_cards(best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each head."""
    code, output = run(best.parent, monkeypatch, "models two.ckpt")
    assert code == 0, output
    found = re.findall(r"^run \((\w+)\)$|^  head +(\w+)$", output, re.M)
    assert found == [("pbe", ""), ("", "pbe"), ("meta", ""), ("", "meta")]
    _, output = run(best.parent, monkeypatch, "models two.ckpt --json")
    assert [row["head"] for row in json.loads(output)] == list(HEADS)
    _, output = run(best.parent, monkeypatch, "models old.ckpt --json")
    assert json.loads(output)["head"] == ""


@pytest.mark.parametrize(
    "command",
    [
        "predict one.xyz -m two.ckpt",
        "relax one.xyz -m two.ckpt --steps 1 --fmax 1000",
        "eval two.ckpt one.xyz --plot parity.png",
        "select one.xyz -m two.ckpt -n 1 -o chosen.xyz --force",
        "data one.xyz --against two.ckpt",
    ],
)
def test_commands_take_one_head(best: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    ase.io.write(best.with_name("one.xyz"), ase.io.read(best.with_name("pbe.xyz"), "1"))
    code, output = run(best.parent, monkeypatch, command)
    assert code == 1, output
    assert "two.ckpt' has several heads, pbe, meta; choose one of them with --head" in " ".join(output.split())
    code, output = run(best.parent, monkeypatch, f"{command} --head pbe")
    assert code == 0, output
    assert "run (pbe)" in output or command.startswith("data")


def test_export_without_a_choice(best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run(best.parent, monkeypatch, "export two.ckpt -o meta.pt")
    assert code == 1
    assert "two.ckpt' has several heads, pbe, meta; choose one of them with --head" in " ".join(output.split())
    assert not best.with_name("meta.pt").exists()


def test_calibration_of_one_head(best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file keeps all heads."""
    folder = best.parent
    frames = ase.io.read(folder / "pbe.xyz", ":")
    ase.io.write(folder / "fifty.xyz", frames * 10)
    code, output = run(folder, monkeypatch, "calibrate two.ckpt fifty.xyz -o calibrated.ckpt --head pbe")
    assert code == 0, output
    found = load_heads(folder / "calibrated.ckpt")
    assert [head.calibration is not None for head in found.heads.values()] == [True, False]
    assert "energy_uncertainty" in load_evaluator(folder / "calibrated.ckpt", head="pbe").properties


def test_the_config_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    (text,) = re.findall(r"^```toml\n(# heads\.toml\n.*?)^```", TRAINING.read_text(), re.M | re.S)
    (tmp_path / "heads.toml").write_text(text)
    for name in re.findall(r'"(\w+\.xyz)"', text):
        write_labelled(tmp_path / name)
    overrides = ["run.epochs=1", "run.device=cpu", "data.batch_size=8"]
    config = read_config(tmp_path / "heads.toml", overrides)
    best = train(config)
    assert head_names(best) == config.model.heads
    assert len(set(config.head_of_set)) == len(config.model.heads) > 1
