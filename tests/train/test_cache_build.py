"""A cache is built once: by one of several processes, and from where a killed one stopped."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import small
from test_ranks import torchrun

from uip.data import cache_build, dataset
from uip.data.cache import Store
from uip.data.dataset import GraphSettings, open_store
from uip.data.samples import Sample
from uip.train.setup import initial_model, open_data

SETTINGS = GraphSettings(6.0, 3.0, None, tuple(range(1, 31)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "eight.xyz", 8)


def contents(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def count_graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of atoms of the graphs that are built from now on."""
    built: list[int] = []
    original = dataset.build_graph
    monkeypatch.setattr(
        dataset, "build_graph", lambda structure, *rest: (built.append(1), original(structure, *rest))[1]
    )
    return built


def test_a_second_builder_waits(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are of open files, so two threads exclude each other as two processes do."""
    begun, go_on, stores = threading.Event(), threading.Event(), []
    original = dataset._samples

    def slow(*arguments: object) -> Iterator[Sample]:
        for number, sample in enumerate(original(*arguments)):
            if number == 4:
                begun.set()
                go_on.wait(60.0)
            yield sample

    monkeypatch.setattr(dataset, "_samples", slow)
    built = count_graphs(monkeypatch)
    threads = [threading.Thread(target=lambda: stores.append(open_store(file, SETTINGS, tmp_path))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60.0)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(60.0)
    assert [len(store) for store in stores] == [8, 8]
    assert len(built) == 8


def test_a_killed_build_goes_on_where_it_stopped(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at structure 6; checkpoints were written after 2 and 4; what came later is cut off."""
    whole = contents(open_store(file, SETTINGS, tmp_path / "whole"))
    monkeypatch.setattr(cache_build, "CHECKPOINT", 2)
    child = os.fork()
    if child == 0:
        original = dataset.build_graph

        def killed(*arguments: object) -> object:
            killed.calls += 1  # type: ignore[attr-defined]
            if killed.calls == 6:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        killed.calls = 0  # type: ignore[attr-defined]
        dataset.build_graph = killed
        open_store(file, SETTINGS, tmp_path / "killed")
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (building,) = (tmp_path / "killed").glob("*.building")
    with (building / "forces.bin").open("ab") as half:
        half.write(b"half a structure")
    (building / "done.tmp").touch()
    built = count_graphs(monkeypatch)
    assert contents(open_store(file, SETTINGS, tmp_path / "killed")) == whole
    assert len(built) == 4


IMPATIENT = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from uip.data import dataset
from uip.train.config import read_config
from uip.train.loop import train

dist.init_process_group("gloo", timeout=timedelta(seconds=8))
build = dataset.build_graph
dataset.build_graph = lambda *arguments: (time.sleep(2.0), build(*arguments))[1]
train(read_config(sys.argv[1]), report=lambda text: print(text, flush=True))
"""


@pytest.mark.slow  # waits longer than the barrier of the ranks allows
def test_ranks_wait_longer_than_a_barrier(file: Path, tmp_path: Path) -> None:
    """Eight graphs of two seconds each, in a process group that gives up after eight seconds."""
    config = small.config(tmp_path / "run", file, data={"cache": str(tmp_path / "cache")}, run={"epochs": 1})
    (tmp_path / "run.toml").write_text(small.toml(config.values()))
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    result = torchrun(2, str(tmp_path / "impatient.py"), str(tmp_path / "run.toml"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 1/1") == 2


def test_a_file_system_without_locks(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    config = small.config(tmp_path / "run", file, data={"cache": str(tmp_path / "cache")})
    message = r"must support locks \(flock\), but gives 'No locks available'\); free disk space, or choose another"
    with pytest.raises(OSError, match=message):
        open_data(config, initial_model(config))
