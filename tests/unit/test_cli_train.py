"""`uip train`, `uip config`, `--version` and `--debug`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import tomllib
from typer.testing import CliRunner, Result

import uip
from uip.cli.app import app
from uip.train.__main__ import main
from uip.train.config import DataConfig, TrainConfig, make_config

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import small

DEFAULTS = TrainConfig(DataConfig(train=("labelled.xyz",)))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_version() -> None:
    assert run("--version").stdout == f"uip {uip.__version__}\n"


def test_the_default_config_is_complete_and_reads_back() -> None:
    values = tomllib.loads(run("config").stdout)
    assert make_config(values) == DEFAULTS
    for table in dataclasses.fields(TrainConfig):
        names = {field.name for field in dataclasses.fields(getattr(DEFAULTS, table.name))}
        assert names - values[table.name].keys() <= {"augment", "sets"}, table.name


def test_a_config_is_shown_whole(tmp_path: Path) -> None:
    text = 'data.train = "a.xyz"\ndata.augment = true\nloss.final = { energy = 3.0 }\nmodel.trainable = ["readout.*"]\n'
    (tmp_path / "run.toml").write_text(text)
    shown = run("config", tmp_path / "run.toml").stdout
    assert make_config(tomllib.loads(shown)) == make_config(tomllib.loads(text), tmp_path)


@pytest.mark.parametrize("way", ["uip", "python -m uip.train"])
def test_help_lists_all_settings(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    if way == "uip":
        shown = run("train", "--help").stdout
    else:
        assert main(["--help"]) == 0
        shown = capsys.readouterr().out
    for table in dataclasses.fields(TrainConfig):
        assert f"[{table.name}]" in shown
        for field in dataclasses.fields(getattr(DEFAULTS, table.name)):
            assert f"\n{field.name} = " in shown or f"\n# {field.name} =" in shown, field.name


def test_train(tmp_path: Path) -> None:
    file = small.write_frames(tmp_path / "data.xyz", 4)
    config = small.config(tmp_path / "run", file, run={"epochs": 1}).values()
    (tmp_path / "run.toml").write_text(small.toml(config))
    result = run("train", tmp_path / "run.toml")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "best.ckpt").is_file()
    assert not (tmp_path / "run" / "error.log").exists()
    # the folder holds a run now: one line
    result = run("train", tmp_path / "run.toml")
    assert result.exit_code == 1
    assert "already contains a run; add --resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "error.log").exists()
    assert isinstance(run("--debug", "train", tmp_path / "run.toml").exception, ValueError)


def test_a_run_that_fails_leaves_its_traceback(tmp_path: Path) -> None:
    """Weights that grow without limit: the loss is no number."""
    file = small.write_frames(tmp_path / "data.xyz", 4)
    settings = small.config(tmp_path / "run", file, run={"epochs": 3}, optim={"learning_rate": 1e30}).values()
    (tmp_path / "run.toml").write_text(small.toml(settings))
    result = run("train", tmp_path / "run.toml")
    assert result.exit_code == 1
    assert "the traceback is in" in result.stderr
    assert "Traceback" not in result.stderr
    log = (tmp_path / "run" / "error.log").read_text()
    assert f"uip {uip.__version__}, torch" in log
    assert "Traceback" in log


def test_debug_shows_the_exception(tmp_path: Path) -> None:
    result = run("predict", tmp_path / "no.xyz")
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert isinstance(run("--debug", "predict", tmp_path / "no.xyz").exception, FileNotFoundError)
