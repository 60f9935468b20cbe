"""The life of a run: it learns, it resumes to the last bit, and no kill loses or spoils a checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
import small
import torch

from uip.checkpoint import load_model, read_training
from uip.train.__main__ import main
from uip.train.loop import train
from uip.train.metrics import read_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "eight.xyz")


def without_times(path: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(path)]


def same_checkpoints(one: Path, other: Path) -> bool:
    """Weights, optimiser, average and counters, to the last bit; clocks and folders aside."""
    first, second = read_training(one), read_training(other)
    for content in (first, second):
        content.pop("config")
        content["counters"].pop("seconds")
    return _same(first, second)


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.slow
def test_overfits_eight_structures(data: Path, tmp_path: Path) -> None:
    big = {"architecture": {**small.ARCHITECTURE, "channels": 16}}
    config = small.config(
        tmp_path / "run",
        data,
        model=big,
        data={"batch_size": 8},
        optim={"learning_rate": 2e-2, "ema": 0.0},
        run={"epochs": 150},
    )
    train(config)
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "validation"]
    assert lines[-1]["forces"] < 0.2 * lines[0]["forces"]
    assert lines[-1]["energy"] < 0.2 * lines[0]["energy"]
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    # what is kept is what was validated
    labels = ase.io.read(data, ":")
    model = load_model(tmp_path / "run" / "best.ckpt", dtype="float64")
    assert model.card.name == "run"
    from uip import Calculator

    error = 0.0
    for atoms in labels:
        forces = atoms.get_forces()
        atoms.calc = Calculator(model)
        error += abs(atoms.get_forces() - forces).sum()
    count = sum(3 * len(atoms) for atoms in labels)
    assert 1e3 * error / count == pytest.approx(min(lines, key=lambda line: line["loss"])["forces"], rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_equals_uninterrupted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    optim = {"optimizer": optimizer}
    run = {"epochs": 4, "checkpoint_steps": 3, "dtype": "float32"}
    train(small.config(tmp_path / "whole", data, optim=optim, run=run))
    import uip.train.loop

    original, calls = uip.train.loop.gradient_step, 0

    def power_cut(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls in (5, 8):  # after the checkpoints of steps 3 (within an epoch) and 6, with steps to repeat
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(uip.train.loop, "gradient_step", power_cut)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(small.config(tmp_path / "cut", data, optim=optim, run=run), resume=True)
    train(small.config(tmp_path / "cut", data, optim=optim, run=run), resume=True)
    assert same_checkpoints(tmp_path / "whole" / "last.ckpt", tmp_path / "cut" / "last.ckpt")
    assert without_times(tmp_path / "whole" / "log.jsonl") == without_times(tmp_path / "cut" / "log.jsonl")
    one, other = (load_model(tmp_path / name / "best.ckpt").state_dict() for name in ("whole", "cut"))
    assert _same(dict(one), dict(other))


def test_resume_refuses_other_settings(data: Path, tmp_path: Path) -> None:
    train(small.config(tmp_path / "run", data, run={"epochs": 1}))
    with pytest.raises(ValueError, match=r"but optim\.ema changed since .*; only data\.cache, .* may change"):
        train(small.config(tmp_path / "run", data, run={"epochs": 1}, optim={"ema": 0.5}), resume=True)
    with pytest.raises(ValueError, match="already contains a run; add --resume"):
        train(small.config(tmp_path / "run", data))


def test_resume_knows_the_data_by_content(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    train(small.config(tmp_path / "run", data, run={"epochs": 1}))
    moved = tmp_path / "elsewhere" / "moved.xyz"
    moved.parent.mkdir()
    moved.write_bytes(data.read_bytes())
    train(small.config(tmp_path / "run", moved, run={"epochs": 2}), resume=True)
    assert sum(line["kind"] == "validation" for line in read_log(tmp_path / "run" / "log.jsonl")) == 2
    atoms = ase.io.read(moved, ":")
    atoms[2].calc.results["forces"][0, 0] += 0.5
    ase.io.write(moved, atoms)
    with pytest.raises(ValueError, match=r"the structures it was started with, but those of 'data\.train'"):
        train(small.config(tmp_path / "run", moved, run={"epochs": 3}), resume=True)


def test_settings_that_a_message_advises_to_change(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is used by the resumed run, and logged; a run that has ended is prolonged."""
    small.without_figures(monkeypatch)
    train(small.config(tmp_path / "run", data, run={"epochs": 1}))
    messages: list[str] = []
    changes = {
        "data": {"max_cost": 500.0},
        "optim": {"learning_rate": 1e-4, "clip": 1.0},
        "run": {"epochs": 2, "max_jump": 50.0, "recompute": True},
    }
    train(small.config(tmp_path / "run", data, **changes), resume=True, report=messages.append)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["kind"] for line in lines] == [*["train"] * 2, "validation", "settings", *["train"] * 2, "validation"]
    assert lines[3]["changed"] == {
        "data.max_cost": [0.0, 500.0],
        "optim.clip": [100.0, 1.0],
        "optim.learning_rate": [5e-3, 1e-4],
        "run.epochs": [1, 2],
        "run.max_jump": [1000.0, 50.0],
        "run.recompute": [False, True],
    }
    assert lines[-2]["rate"] < 1e-4
    assert any("optim.learning_rate is 0.0001 from step 2 on, it was 0.005" in text for text in messages)


def test_a_run_stops_when_its_hours_are_over(data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    train(small.config(tmp_path / "run", data, run={"epochs": 50, "hours": 1e-7}), report=messages.append)
    counters = read_training(tmp_path / "run" / "last.ckpt")["counters"]
    assert counters["step"] == 1
    # what was validated when it stopped counts, so that a worse model never replaces the best one
    assert counters["best"] == read_log(tmp_path / "run" / "log.jsonl")[-1]["loss"]
    assert counters["lines"] == 2
    assert any("stopped after 1e-07 hours at step 1 of 100" in text for text in messages)


KILLED = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from uip.checkpoint import read_training, save_checkpoint
from uip.models.chgnet import CHGNet, CHGNetConfig

torch.set_num_threads(1)
path = Path(sys.argv[1])
model = CHGNet(CHGNetConfig(channels=16))
save_checkpoint(model, path, training={"number": 0})
known = 0
for trial in range(20):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for number in range(known + 1, known + 10**6):
            save_checkpoint(model, path, training={"number": number})
            os.write(writer, b"%d\\n" % number)
    os.close(writer)
    first = os.read(reader, 100)
    time.sleep(random.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        finished = int((first + pipe.read()).split()[-1])
    known = read_training(path)["number"]
    assert finished <= known <= finished + 1, (trial, finished, known)
    print(trial, known, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_never_lose_a_checkpoint(tmp_path: Path) -> None:
    """Whatever was reported as written is there, or its successor; never half of one."""
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "last.ckpt")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 20


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    run = {"epochs": 12, "checkpoint_steps": 1}
    values = {name: small.config(tmp_path / name, data, run=run).values() for name in ("whole", "killed")}
    for name, tables in values.items():
        (tmp_path / f"{name}.toml").write_text(small.toml(tables))
    assert main([str(tmp_path / "whole.toml")]) == 0
    command = [sys.executable, "-m", "uip.train", str(tmp_path / "killed.toml"), "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main([str(tmp_path / "killed.toml"), "--resume"]) == 0
    assert same_checkpoints(tmp_path / "whole" / "last.ckpt", tmp_path / "killed" / "last.ckpt")
    assert not list((tmp_path / "killed").glob("*.tmp"))


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", data, optim={"learning_rate": 1e30, "clip": 0.0}, run={"epochs": 3})
    with pytest.raises(FloatingPointError, match="the loss is not finite at step"):
        train(config)
    assert len(ase.io.read(tmp_path / "run" / "bad_step_rank0.xyz", ":")) == 4


def test_tensor_cores_are_used_only_on_request(data: Path, tmp_path: Path) -> None:
    for name, tf32, precision in (("exact", False, "highest"), ("fast", True, "high"), ("again", False, "highest")):
        train(small.config(tmp_path / name, data, run={"epochs": 1, "tf32": tf32}))
        assert torch.get_float32_matmul_precision() == precision
