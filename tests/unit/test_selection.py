"""`uip select`: the structures on which a committee deviates most, far from each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import systems
from ase import Atoms
from ase.io import read, write
from conftest import random_chgnet
from typer.testing import CliRunner, Result

from uip.checkpoint import save_checkpoint
from uip.cli.app import app
from uip.graph.ase_io import structure_from_atoms
from uip.inference.committee import load_committee
from uip.inference.evaluator import load_evaluator, predict
from uip.inference.selection import farthest_points, fingerprint, matrix, select
from uip.inference.stream import Frame
from uip.models.chgnet import CHGNetConfig

CONFIG = CHGNetConfig(num_elements=30, channels=8, num_layers=2, num_radial=5, num_angular=5, num_readout=1)
MODELS = [random_chgnet(CONFIG, seed) for seed in range(2)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rattled(count: int = 6) -> list[Atoms]:
    """NiO, further from the crystal from one to the next."""
    frames = [systems.nio() for _ in range(count)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.02 * (1 + number), seed=number)
    return frames


def as_frames(structures: list[Atoms]) -> list[Frame]:
    return [Frame("in.xyz", number, atoms) for number, atoms in enumerate(structures)]


def deviations_of(structures: list[Atoms]) -> list[float]:
    predictions = predict(load_committee(MODELS), map(structure_from_atoms, structures))
    return [float(prediction["force_deviation"].max()) for prediction in predictions]


def test_farthest_points() -> None:
    features = np.array([[0.0], [1.0], [10.0], [6.0], [10.0]])
    assert farthest_points(features, 4) == [(0, np.inf), (2, 10.0), (3, 4.0), (1, 1.0)]
    assert [k for k, _ in farthest_points(features, 9)] == [0, 2, 3, 1]  # row 4 is row 2


def test_fingerprints() -> None:
    """Equal for the same crystal, however it is written; different under strain and for other elements."""
    atoms = systems.nio()
    atoms.rattle(0.05, seed=1)
    turned = atoms.copy()
    turned.rotate(35, (1, 2, 3), rotate_cell=True)
    strained = atoms.copy()
    strained.set_cell(1.05 * atoms.cell.array, scale_atoms=True)
    exchanged = atoms.copy()
    exchanged.numbers[atoms.numbers == 28] = 12
    same = [atoms, atoms[::-1], atoms.repeat((2, 1, 1)), turned]
    rows = matrix([fingerprint(each) for each in (*same, strained, exchanged)])
    assert np.abs(rows[:4] - rows[0]).max() < 1e-9
    assert np.linalg.norm(rows[4] - rows[0]) > 0.5
    assert np.linalg.norm(rows[5] - rows[0]) > 0.5
    assert matrix([fingerprint(Atoms("He"))]).shape == (1, 24)


def test_the_largest_deviation_comes_first() -> None:
    structures = rattled()
    found = select(load_committee(MODELS), as_frames(structures), 3)
    expected = deviations_of(structures)
    assert found.chosen[0].frame.number == int(np.argmax(expected))
    assert found.chosen[0].score == pytest.approx(max(expected), rel=1e-9)
    assert len({selected.frame.number for selected in found.chosen}) == 3
    assert found.chosen[1].distance >= found.chosen[2].distance > 0.0


def test_no_structure_twice() -> None:
    """Copies, supercells and turned structures have the same fingerprint."""
    structures = rattled()
    found = select(load_committee(MODELS), as_frames([*structures, *structures, structures[0].repeat((2, 1, 1))]), 100)
    assert len(found.chosen) == len(structures)


def test_a_range_of_deviations_and_failures() -> None:
    structures = rattled()
    order = np.sort(deviations_of(structures))
    structures.append(systems.nio())
    structures[-1].positions[1] = structures[-1].positions[0]
    limits = {"smallest": (order[1] + order[2]) / 2, "largest": (order[4] + order[5]) / 2}
    found = select(load_committee(MODELS), as_frames(structures), 9, **limits)
    assert sorted(selected.score for selected in found.chosen) == pytest.approx(order[2:5], rel=1e-9)
    assert found.num_candidates == 3
    (message,) = found.failures
    assert message.startswith("in.xyz, structure 6: atoms must be at least 0.1 A apart")


def test_one_model_selects_by_structure() -> None:
    structures = [systems.nio(), systems.nio(), systems.si_rattled()]
    found = select(load_evaluator(MODELS[0]), as_frames(structures), 2)
    assert [selected.frame.number for selected in found.chosen] == [0, 2]
    assert np.isnan(found.chosen[0].score)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("in.xyz", rattled(4))
    for number, model in enumerate(MODELS):
        save_checkpoint(model, f"{number}.ckpt")
    return tmp_path


COMMITTEE = ("-m", "0.ckpt", "-m", "1.ckpt")


def test_command(folder: Path) -> None:
    rows = json.loads(run("select", "in.xyz", "-n", 2, "-o", "out.xyz", *COMMITTEE, "--json").stdout)
    written = read("out.xyz", ":")
    assert [atoms.info["number"] for atoms in written] == [row["number"] for row in rows]
    assert all(atoms.calc is None for atoms in written)
    assert rows[0]["max_force_deviation"] > 0.0
    assert rows[0]["distance"] is None
    shown = run("select", "in.xyz", "-n", 2, "-o", "out.xyz", *COMMITTEE, "--force")
    assert "max dev F" in shown.stdout
    assert "written: out.xyz, 2 of 4 candidates" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0", *COMMITTEE], "the number of structures must be at least 1, got 0"),
        (
            ["-n", "1", *COMMITTEE, "--min", "2", "--max", "1"],
            "the smallest score must be below the largest, got 2.0",
        ),
        (["-n", "1", "--min", "0.1"], "a range of scores needs a committee or a calibrated model, got one"),
        (["-n", "1", *COMMITTEE, "--min", "1e9"], "no structure can be selected; widen the range from --min to --max"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], message: str) -> None:
    result = run("select", "in.xyz", "-o", "out.xyz", *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not Path("out.xyz").exists()
