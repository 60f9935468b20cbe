"""The build of a data store: killed, repeated, by two processes at once; damaged stores; messages."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small
import systems
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from uip.data import sharded_build
from uip.data.dataset import GraphSettings
from uip.data.labels import LabelKeys
from uip.data.processes import run_all
from uip.data.sharded import ShardedStore, existing_source
from uip.data.sharded_build import BuildSettings, build_sharded
from uip.data.sharded_record import element_bits, elements_of
from uip.data.sources import find_files, group_files

SETTINGS = GraphSettings(6.0, 3.0, None, tuple(range(1, 31)))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two structures in a shard."""
    monkeypatch.setattr(sharded_build, "SHARD_SIZE", 2)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "nine.xyz", 9)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count_structures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each structure whose graph is counted from now on, in this process."""
    counted: list[int] = []
    original = sharded_build.count_graph
    monkeypatch.setattr(sharded_build, "count_graph", lambda *given: (counted.append(1), original(*given))[1])
    return counted


def killed_build(file: Path, folder: Path, after: int, workers: int = 1) -> None:
    """A build in a process of its own, which is killed at the structure `after` + 1."""
    child = os.fork()
    if child == 0:
        original, calls = sharded_build.count_graph, []

        def count(*given: object) -> object:
            calls.append(1)
            if len(calls) > after:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given)

        sharded_build.count_graph = count
        build_sharded([str(file)], folder, BuildSettings(), workers=workers)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_killed_build_goes_on_where_it_stopped(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the third shard; a half-written file and a shard of a file that has changed are in the way."""
    build_sharded([str(file)], tmp_path / "whole", BuildSettings())
    killed_build(file, tmp_path / "killed", after=5)
    finished = sorted((tmp_path / "killed").glob("*.npy"))
    assert len(finished) == 2
    with pytest.raises(ValueError, match=r"is a folder without store\.json; 'uip data build' writes a store, and fin"):
        existing_source(tmp_path / "killed")
    (tmp_path / "killed" / f"{finished[0].name[:16]}-00002.bin.tmp").write_bytes(b"half")
    (tmp_path / "killed" / "0123456789abcdef-00000.npy").write_bytes(b"old")
    counted = count_structures(monkeypatch)
    assert build_sharded([str(file)], tmp_path / "killed", BuildSettings()) == 9
    assert len(counted) == 5
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert build_sharded([str(file)], tmp_path / "killed", BuildSettings()) == 9
    assert len(counted) == 5  # it was complete


def test_finished_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files in groups of their own; the third has an error, and is mended."""
    monkeypatch.setattr("uip.data.sources.GROUP_BYTES", 1)
    frames = small.frames(4)
    for k, atoms in enumerate(frames):
        write(tmp_path / f"{k}.xyz", atoms)
    broken = frames[2].copy()
    broken.calc = SinglePointCalculator(broken, energy=np.nan)
    write(tmp_path / "2.xyz", broken)
    pattern = f"{tmp_path}/?.xyz"
    with pytest.raises(ValueError, match=r"2\.xyz, structure 0: energy must be finite, got nan"):
        build_sharded([pattern], tmp_path / "store", BuildSettings())
    write(tmp_path / "2.xyz", frames[2])
    counted = count_structures(monkeypatch)
    assert build_sharded([pattern], tmp_path / "store", BuildSettings()) == 4
    assert len(counted) == 2


@pytest.mark.parametrize("workers", [2, 3])
def test_several_processes_write_the_same_store(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files: a file for each of two processes; three processes share each file."""
    monkeypatch.setattr("uip.data.sources.GROUP_BYTES", 1)
    for name, count in (("a", 7), ("b", 4)):
        small.write_frames(tmp_path / f"{name}.xyz", count)
    sources = [str(tmp_path / "a.xyz"), str(tmp_path / "b.xyz")]
    build_sharded(sources, tmp_path / "one", BuildSettings())
    calls: list[tuple[int, int]] = []
    build_sharded(sources, tmp_path / "many", BuildSettings(), workers=workers, report=lambda *n: calls.append(n))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert calls[-1] == ((2, 2) if workers == 2 else (6, 6))


def test_a_second_builder_waits(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are of open files, so two threads exclude each other as two processes do."""
    begun, go_on, counts = threading.Event(), threading.Event(), []
    original = sharded_build.count_graph
    counted = []

    def slow(*given: object) -> object:
        counted.append(1)
        begun.set()
        go_on.wait(60.0)
        return original(*given)

    monkeypatch.setattr(sharded_build, "count_graph", slow)
    build = [str(file)], tmp_path / "store", BuildSettings()
    threads = [threading.Thread(target=lambda: counts.append(build_sharded(*build))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60.0)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(60.0)
    assert counts == [9, 9]
    assert len(counted) == 9


def hang(number: int) -> int:
    time.sleep(0.0 if number == 0 else 600.0)
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    if number == 0:
        raise ValueError("structure 7 is unusable")
    return hang(number)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (die, RuntimeError, "one was, perhaps for lack of memory; start"),
        (fail, ValueError, "7 is unu"),
    ],
)
def test_processes_end_with_the_first_error(
    function: Callable[[int], int], error: type[Exception], message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message):
        list(run_all(function, [0, 1, 2], 2))
    assert time.monotonic() - began < 60.0


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """A build that is killed leaves no process that holds its lock."""
    child = os.fork()
    if child == 0:
        with sharded_build.lock(tmp_path / "lock"):
            list(run_all(hang, [0, 1, 2], 2))
        os._exit(1)
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    taken = threading.Thread(target=lambda: sharded_build.lock(tmp_path / "lock").__enter__(), daemon=True)
    taken.start()
    taken.join(30.0)
    assert not taken.is_alive()


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = next(folder.glob(name))
        path.write_bytes(change(path.read_bytes()))

    return damage


def newer(content: bytes) -> bytes:
    return json.dumps({**json.loads(content), "version": 99}).encode()


@pytest.mark.parametrize(
    ("damage", "settings", "message"),
    [
        (
            damaged("*-00001.bin", lambda data: data[:-3]),
            SETTINGS,
            r"00001\.bin must have \d+ bytes, but has \d+",
        ),
        (lambda folder: next(folder.glob("*-00003.bin")).unlink(), SETTINGS, r"must have \d+ bytes, but has 0; copy"),
        (damaged("*-00000.jsonl", lambda data: data[:-3]), SETTINGS, r"00000\.jsonl must have \d+ bytes, but has \d+"),
        (damaged("rows.npy", lambda data: data[:-9]), SETTINGS, r"rows\.npy is damaged: mmap length is greater than"),
        (lambda folder: (folder / "rows.npy").unlink(), SETTINGS, r"rows\.npy is damaged: .*No such file.*; copy the"),
        (damaged("store.json", lambda data: data[:50]), SETTINGS, r"store\.json is damaged: .*; copy the store again"),
        (damaged("rows.npy", lambda data: data[:-1] + b"x"), SETTINGS, r"rows\.npy is damaged: its checksum differs"),
        (
            damaged("store.json", newer),
            SETTINGS,
            "of version 1, but has version 99; build it again",
        ),
        (
            lambda folder: None,
            GraphSettings(6.0, 3.0, None, (1, 8, 14)),
            r"store, structure 0: the model must support every element, got \w+.*; increase `num_elements` or",
        ),
        (
            lambda folder: None,
            GraphSettings(6.0, 3.0, None, SETTINGS.elements, keys=LabelKeys(forces="DFT")),
            r"'data\.forces_key' must be that of .*store, which was built with ASE's own name, but is 'DFT'",
        ),
    ],
)
def test_stores_that_cannot_be_used(
    damage: Callable[[Path], None], settings: GraphSettings, message: str, file: Path, tmp_path: Path
) -> None:
    build_sharded([str(file)], tmp_path / "store", BuildSettings())
    damage(tmp_path / "store")
    with pytest.raises(ValueError, match=message):
        ShardedStore(tmp_path / "store", settings)


def test_a_damaged_record_is_found_when_it_is_read(file: Path, tmp_path: Path) -> None:
    build_sharded([str(file)], tmp_path / "store", BuildSettings())
    damaged("*-00001.bin", lambda data: data[:80] + b"x" + data[81:])(tmp_path / "store")
    store = ShardedStore(tmp_path / "store", SETTINGS)
    assert store[3].graph.num_atoms
    with pytest.raises(ValueError, match=r"00001\.bin is damaged: the checksum of structure 2 of the store differs"):
        store[2]


def without_labels(folder: Path) -> None:
    write(folder / "a.xyz", systems.water())


def too_near(folder: Path) -> None:
    atoms = Atoms("H2", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.01]])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    write(folder / "a.xyz", atoms)


def another_store(folder: Path) -> None:
    small.write_frames(folder / "a.xyz", 1)
    build_sharded([str(folder / "a.xyz")], folder.parent / "store", BuildSettings(cutoff=5.0))


def another_folder(folder: Path) -> None:
    small.write_frames(folder / "a.xyz", 1)
    (folder.parent / "store").mkdir()
    (folder.parent / "store" / "thesis.tex").touch()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no files in .*data"),
        (without_labels, r"a\.xyz must carry labels \(energy, forces, stress or magmoms\), but no structure has any"),
        (too_near, r"a\.xyz, structure 0: atoms must be at least 0\.1 A apart"),
        (
            another_store,
            r"store is a data store of other files or settings, or its files have changed since",
        ),
        (another_folder, r"store must be a new folder or a data store, but contains thesis\.tex; choose another"),
    ],
)
def test_builds_that_cannot_be(prepare: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_sharded([str(tmp_path / "data")], tmp_path / "store", BuildSettings())


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders with all that is not hidden, patterns, files; each once."""
    for name in ("b/2.xyz", "b/1.xyz", "b/.hidden/3.xyz", "b/.4.xyz", "a.xyz", "c[1].xyz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    sources = [str(tmp_path / name) for name in ("b", "*.xyz", "a.xyz", "c[1].xyz")]
    files = find_files(sources, tmp_path / "store")
    assert [path.name for path in files] == ["1.xyz", "2.xyz", "a.xyz", "c[1].xyz"]
    monkeypatch.setattr("uip.data.sources.GROUP_BYTES", 6)
    assert [len(group) for group in group_files(files)] == [2, 2]
    for source, message in (("d.xyz", "no such file: .*d.xyz"), ("*.cif", r"no files in .*\*\.cif")):
        with pytest.raises(FileNotFoundError, match=message):
            find_files([str(tmp_path / source)], tmp_path / "store")
    with pytest.raises(ValueError, match=r"must lie outside its sources, but .*1\.xyz is in it; choose another"):
        find_files(sources, tmp_path / "b")


def test_settings_and_elements() -> None:
    with pytest.raises(ValueError, match=r"`bond_cutoff` must not exceed `cutoff`, got 7\.0 and 6\.0 A"):
        BuildSettings(bond_cutoff=7.0)
    numbers = np.array([1, 64, 63, 94, 118, 1])
    assert elements_of(np.array(element_bits(numbers), dtype=np.uint64)) == [1, 63, 64, 94, 118]
    with pytest.raises(ValueError, match="atomic numbers must lie between 0 and 118, got 119"):
        element_bits(np.array([1, 119]))


def test_a_store_that_lost_a_shard_is_not_complete(file: Path, tmp_path: Path) -> None:
    build_sharded([str(file)], tmp_path / "store", BuildSettings())
    next((tmp_path / "store").glob("*.bin")).unlink()
    with pytest.raises(ValueError, match=r"bytes, but has 0; copy the store again, or remove its folder"):
        build_sharded([str(file)], tmp_path / "store", BuildSettings())
