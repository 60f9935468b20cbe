"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import systems
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from export_files import exported
from fairchem_files import CHECKPOINT
from typer.testing import CliRunner, Result

from uip import Calculator
from uip.cli.app import app
from uip.units import EV_PER_A3_TO_GPA


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two structures whose labels are the model's own numbers, shifted by known amounts."""
    frames = []
    for make in (systems.nio, systems.si_rattled):
        atoms = make()
        atoms.calc = Calculator("chgnet-0.3.0")
        values = {
            "energy": atoms.get_potential_energy() - 0.1 * len(atoms),
            "forces": atoms.get_forces() + 0.02,
            "stress": atoms.get_stress() - 0.5 / EV_PER_A3_TO_GPA,
        }
        atoms.info["set"] = make.__name__
        atoms.calc = SinglePointCalculator(atoms, **values)
        frames.append(atoms)
    write(tmp_path / "labelled.xyz", frames)
    return tmp_path / "labelled.xyz"


def test_models_lists_what_is_there_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(run("models", "--json").stdout)
    assert {row["name"] for row in rows} == {"chgnet-0.2.0", "chgnet-0.3.0", "chgnet-r2scan", "saltwater-mini"}
    assert all(Path(row["found"]).is_file() for row in rows)
    from uip.importers.published import Published

    monkeypatch.setattr(Published, "find", lambda self: None)
    assert "no; get it with 'pip install --no-deps chgnet==0.4.2'" in run("models").stdout


def test_predict(tmp_path: Path) -> None:
    write(tmp_path / "a.cif", systems.nio())
    write(tmp_path / "b.xyz", [systems.water(), systems.si_rattled()])
    output = tmp_path / "out.xyz"
    result = run("predict", tmp_path / "a.cif", tmp_path / "b.xyz", "-o", output)
    assert result.exit_code == 0, result.output
    assert "Si8" in result.stdout
    written = read(output, ":")
    atoms = systems.si_rattled()
    atoms.calc = Calculator("chgnet-0.3.0")
    assert written[2].get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(written[2].get_forces(), atoms.get_forces(), atol=1e-4)
    np.testing.assert_allclose(written[2].get_stress(), atoms.get_stress(), atol=1e-5)
    again = run("predict", tmp_path / "a.cif", "-o", output)
    assert again.exit_code == 1
    assert "exists; choose another name, or add --force" in again.stderr
    assert run("predict", tmp_path / "a.cif", "-o", output, "--force").exit_code == 0


def test_eval_finds_the_errors_that_were_put_in(labelled: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    result = run("eval", "chgnet-0.3.0", labelled, "--plot", plot, "--group-by", "set", "--json")
    assert result.exit_code == 0, result.output
    table = {(row["group"], row["property"]): row for row in json.loads(result.stdout)}
    assert table["all", "energy"]["offset"] == pytest.approx(100.0, abs=0.1)
    assert table["all", "energy"]["mae_without_offset"] == pytest.approx(0.0, abs=0.1)
    assert table["nio", "forces"]["mae"] == pytest.approx(20.0, abs=0.1)
    assert table["nio", "forces"]["rmse"] == pytest.approx(20.0, abs=0.1)
    assert table["si_rattled", "stress"]["mae"] == pytest.approx(0.5, abs=0.01)
    assert table["all", "forces"]["structures"] == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    shown = run("eval", "chgnet-0.3.0", labelled, "--plot", plot).stdout
    assert "Predicted energies differ from the labels by +100 meV/atom" in shown


@pytest.mark.parametrize("key", ["formula", "elements", "size"])
def test_groups(labelled: Path, tmp_path: Path, key: str) -> None:
    result = run("eval", "chgnet-0.3.0", labelled, "--plot", tmp_path / "p.png", "--group-by", key, "--json")
    groups = {row["group"] for row in json.loads(result.stdout)}
    assert (
        groups
        == {
            "formula": {"all", "Ni4O4", "Si8"},
            "elements": {"all", "Ni-O", "Si"},
            "size": {"all", "8-15 atoms"},
        }[key]
    )


@pytest.fixture
def mistakes(tmp_path: Path) -> dict[str, Path]:
    """Files that a user may give by mistake."""
    files = {name: tmp_path / name for name in ("si.xyz", "og.xyz", "nan.xyz", "bad.xyz", "what.abc", "empty.xyz")}
    write(files["si.xyz"], systems.si_rattled())
    og = systems.si_rattled()
    og.numbers[0] = 118
    write(files["og.xyz"], og)
    nan = systems.si_rattled()
    nan.positions[1] = np.nan
    write(files["nan.xyz"], nan)
    ion = systems.si_rattled()
    ion.info["charge"] = 0.5
    write(tmp_path / "ion.xyz", ion)
    named = systems.si_rattled()
    named.info |= {"REF_energy": -40.0, "REF_nan": np.nan}
    named.arrays["REF_forces"] = np.zeros((8, 3))
    write(tmp_path / "ref.xyz", named)
    (tmp_path / "fairchem.pt").symlink_to(CHECKPOINT)
    (tmp_path / "program.pt").symlink_to(exported("random", ".pt"))
    files["bad.xyz"].write_text("8\nLattice=\nSi 0 0\n")
    files["what.abc"].write_text("?")
    files["empty.xyz"].write_text("")
    return files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "si.xyz", "-m", "chgnet"], "unknown model 'chgnet', and no such file; did you mean 'chgnet-"),
        (["predict", "si.xyz", "-m", "no/such.ckpt"], "no such file: no/such.ckpt"),
        (["predict", "nowhere.cif"], "no such file: nowhere.cif"),
        (["predict", "."], ". is a folder; name a file in it"),
        (["predict", "si.xyz", "og.xyz"], "og.xyz, structure 0: the structure has Og, but 'chgnet-0.3.0' knows H to"),
        (["predict", "si.xyz", "nan.xyz"], "nan.xyz, structure 0: positions must be finite"),
        (["predict", "ion.xyz"], "ion.xyz, structure 0: `charge`, of the whole structure, must be a whole number, got"),
        (["predict", "si.xyz", "-m", "fairchem.pt"], "a checkpoint of fairchem: run 'uip import fairchem fairchem.pt"),
        (["export", "program.pt", "-o", "x.pt"], "must be a checkpoint, but is an exported program"),
        (["predict", "bad.xyz"], "cannot be read by ASE"),
        (["predict", "what.abc"], "must be in a format that ASE reads"),
        (["predict", "empty.xyz"], "Empty file: empty.xyz"),
        (["predict", "si.xyz", "--dtype", "float16"], "`dtype` must be 'float32' or 'float64'"),
        (["predict", "si.xyz", "--device", "cuda:9"], "torch sees"),
        (["predict", "si.xyz", "-o", "out.cif"], "must end in .xyz or .extxyz"),
        (["predict", "si.xyz", "-o", "no/such/out.xyz"], "folder of the output file must exist"),
        (["eval", "chgnet-0.3.0", "si.xyz"], "must carry labels"),
        (
            ["eval", "chgnet-0.3.0", "ref.xyz", "--energy-key", "REF_energi", "--forces-key", "REF_forces"],
            "--energy-key must name an entry of ref.xyz, but no structure has 'REF_energi'; did you mean 'REF_energy'?",
        ),
        (
            ["eval", "chgnet-0.3.0", "ref.xyz", "--energy-key", "REF_nan"],
            "ref.xyz, structure 0: energy must be finite, got nan",
        ),
        (["eval", "chgnet-0.3.0", "si.xyz", "--plot", "p.docx"], "must end in .png or .svg or .pdf"),
    ],
)
def test_mistakes_get_a_message(
    mistakes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(mistakes["si.xyz"].parent)
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_group_by_an_unknown_key(labelled: Path, tmp_path: Path) -> None:
    result = run("eval", "chgnet-0.3.0", labelled, "--group-by", "colour", "--plot", tmp_path / "p.png")
    assert result.exit_code == 1
    assert "'colour' is missing from a structure that has: set" in result.stderr


def test_unknown_option_and_command() -> None:
    result = run("predict", "x.cif", "--modl", "chgnet-0.3.0")
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert run("predct").exit_code == 2
