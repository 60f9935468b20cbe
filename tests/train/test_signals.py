"""SIGINT and SIGTERM: a run ends with checkpoints, an export without a hidden folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
from conftest import random_chgnet

from uip.checkpoint import load_model, read_training, save_checkpoint
from uip.train.loop import train
from uip.train.signals import StoppedError, stop_requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_checkpoints(number: signal.Signals, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", small.write_frames(tmp_path / "data.xyz"))

    def send(done: int, total: int, structures: int) -> None:
        if done == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(
        StoppedError, match=rf"stopped by {number.name} after step 2; .*last\.ckpt is complete, add --resume"
    ) as stopped:
        train(config, on_step=send)
    assert signal.getsignal(number) == before
    assert stopped.value.exit_code == 128 + number
    assert read_training(Path(config.run.folder) / "last.ckpt")["counters"]["step"] == 2
    load_model(Path(config.run.folder) / "best.ckpt")
    train(config, resume=True)


def test_a_second_signal_ends_the_process() -> None:
    def twice() -> None:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.name == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)

    # workers of pytest-xdist ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            twice()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_an_ended_export_leaves_nothing(tmp_path: Path) -> None:
    save_checkpoint(random_chgnet(), tmp_path / "model.ckpt")
    command = [sys.executable, "-m", "uip", "export", str(tmp_path / "model.ckpt"), "-o", str(tmp_path / "model.pt2")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list(tmp_path.glob(".uip-export-*")):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
