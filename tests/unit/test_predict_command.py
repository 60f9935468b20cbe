"""`uip predict`: results as they come, bad structures apart, formats, JSON, narrow terminals; files without a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import systems
from ase.io import read, write
from rich.console import Console
from typer.testing import CliRunner, Result

import uip.cli.tables
from uip import Calculator
from uip.cli.app import app
from uip.inference import stream
from uip.inference.domain import evaluate_distributed, world


def run(*arguments: object, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    """Three good structures and, second, one with atoms in one place."""
    frames = [systems.nio(), systems.water(), systems.si_rattled(), systems.tiny_cell()]
    frames[1].positions[1] = frames[1].positions[0]
    write(tmp_path / "run.xyz", frames)
    return tmp_path / "run.xyz"


def formulas(path: Path) -> list[str]:
    return [atoms.get_chemical_formula() for atoms in read(path, ":")] if path.stat().st_size else []


def test_one_bad_frame(trajectory: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.xyz"
    result = run("predict", trajectory, "-o", output)
    assert result.exit_code == 1
    assert "run.xyz, structure 1: atoms must be at least 0.1 A apart" in result.stderr
    assert formulas(output) == ["Ni4O4"]
    result = run("predict", trajectory, "-o", output, "--force", "--skip-bad")
    assert result.exit_code == 0, result.stderr
    assert "structure 1: atoms must be" in result.stderr
    assert formulas(output) == ["Ni4O4", "Si8", "MgO"]


def test_an_interrupt_keeps_what_is_done(trajectory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = stream.predict_stream
    monkeypatch.setattr(stream, "predict_stream", lambda *a, **k: _stop_after(original(*a, **k), 2))
    result = run("predict", f"{trajectory}@2:", "-o", tmp_path / "out.xyz")
    assert result.exit_code == 130
    assert "interrupted after 1 structures" in result.stderr
    assert formulas(tmp_path / "out.xyz") == ["Si8"]


def _stop_after(results: object, count: int) -> object:
    for number, item in enumerate(results, start=1):
        if number == count:
            raise KeyboardInterrupt
        yield item


@pytest.mark.parametrize("name", ["run.xyz@0:1", "./run.xyz", "link.xyz"])
@pytest.mark.parametrize("command", [["predict"], ["relax"], ["select", "-n", "1"]], ids=lambda words: words[0])
def test_an_input_is_never_replaced(
    command: list[str], name: str, trajectory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trajectory.parent)
    Path("link.xyz").symlink_to("run.xyz")
    before = trajectory.read_bytes()
    result = run(*command, name, "-o", "run.xyz", "--force")
    assert result.exit_code == 1
    assert "the output must be another file than the input" in result.stderr
    assert trajectory.read_bytes() == before


def test_what_fails_replaces_nothing(trajectory: Path, tmp_path: Path) -> None:
    """A missing input, and a bad structure after a good one; and a first run that fails makes no file."""
    output, part = tmp_path / "out.xyz", tmp_path / "out.part.xyz"
    assert run("predict", tmp_path / "none.xyz", "-o", output).exit_code == 1
    assert not output.exists()
    output.write_text("precious")
    for command in ("predict", "relax"):
        assert run(command, tmp_path / "none.xyz", "-o", output, "--force").exit_code == 1
        assert output.read_text() == "precious"
    result = run("predict", trajectory, "-o", output, "--force")
    assert f"written: {part}; {output} is unchanged, 1 structures" in result.stderr
    assert output.read_text() == "precious"
    assert formulas(part) == ["Ni4O4"]
    assert run("predict", f"{trajectory}@0:1", "-o", output, "--force").exit_code == 0
    assert formulas(output) == ["Ni4O4"]
    assert not part.exists()


def test_json_and_chosen_frames(trajectory: Path) -> None:
    rows = json.loads(run("predict", f"{trajectory}@2:4", "--json").stdout)
    assert [(row["formula"], row["number"]) for row in rows] == [("Si8", 0), ("MgO", 1)]
    atoms = systems.si_rattled()
    atoms.calc = Calculator("chgnet-0.3.0")
    assert rows[0]["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


def test_standard_input() -> None:
    text = io.StringIO()
    systems.nio().write(text, format="extxyz")
    result = run("predict", "-", "--json", text=text.getvalue())
    assert json.loads(result.stdout)[0]["formula"] == "Ni4O4"


def test_lammps_files_need_elements(tmp_path: Path) -> None:
    systems.si_rattled().write(tmp_path / "si.data", format="lammps-data")
    result = run("predict", tmp_path / "si.data")
    assert result.exit_code == 1
    assert "--format, for example lammps-data" in result.stderr
    result = run("predict", tmp_path / "si.data", "--format", "lammps-data", "--species", "Si", "--json")
    assert json.loads(result.stdout)[0]["formula"] == "Si8"
    result = run("predict", tmp_path / "si.data", "--format", "lammps-data")
    assert "by type labels or by their masses" in result.stderr


def test_a_narrow_terminal_shows_whole_numbers(trajectory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(uip.cli.tables, "console", Console(width=80, file=shown))
    rows = json.loads(run("predict", f"{trajectory}@0", "--json").stdout)
    rows[0]["file"] = "a_rather_long_name_of_a_file_from_a_high_throughput_run.xyz"
    uip.cli.tables.print_predictions(rows, "title")
    assert f"{rows[0]['energy']:.4f}" in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 80


@pytest.mark.parametrize("name", ["POSCAR", "/etc/passwd", "random.bin", "pickle.pkl", "zero"])
def test_a_file_that_is_no_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / Path(name).name
    systems.nio().write(tmp_path / "POSCAR", format="vasp")
    contents = {
        "/etc/passwd": b"root:x:0:0:root:/root:/bin/bash\n" * 20,
        "random.bin": bytes(range(256)) * 40,
        "pickle.pkl": b"\x80\x02]q\x00.",
        "zero": bytes(4096),
    }
    if name in contents:
        path.write_bytes(contents[name])
    write(tmp_path / "si.xyz", systems.si_rattled())
    for arguments in (["predict", tmp_path / "si.xyz", "-m", path], ["import", "fairchem", path, "-o", "x.ckpt"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert f"{path} " in result.stderr
        assert "must be" in result.stderr
        assert "Traceback" not in result.output
    with pytest.raises(ValueError, match=f"{path.name} must"):
        Calculator(path)


def test_slurm_allocations_are_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SLURM_NTASKS` is set in every process of a batch script."""
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setitem(__import__("sys").modules, "mpi4py", None)
    assert world() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(RuntimeError, match="needs mpi4py"):
        world()


def test_ranks_need_cpu_tensors() -> None:
    potential = SimpleNamespace(device=SimpleNamespace(type="cuda"), card=SimpleNamespace(name="x"), parallel=True)
    with pytest.raises(ValueError, match="several ranks share a structure on CPUs only"):
        evaluate_distributed(SimpleNamespace(potential=potential), None, None)
