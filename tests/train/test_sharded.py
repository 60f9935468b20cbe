"""A data store gives the same runs as the files it was built from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from ase.io import read, write
from typer.testing import CliRunner

from uip.checkpoint import load_model
from uip.cli.app import app
from uip.data import sharded_build
from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.data.labels import LabelKeys
from uip.data.sampler import cost_model, epoch_batches
from uip.data.sharded import ShardedStore
from uip.data.sharded_build import BuildSettings, build_sharded
from uip.data.split import groups_of
from uip.graph.neighbors import build_graph, count_graph
from uip.ops.soft_rank import SoftNearest
from uip.train.distributed import Ranks
from uip.train.loop import rank_samples, train
from uip.train.metrics import read_log
from uip.train.setup import initial_model, open_data
from uip.train.state import initial_state

SETTINGS = GraphSettings(6.0, 3.0, None, tuple(range(1, 31)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight structures with different labels, info and charges."""
    frames = small.frames(8)
    for number, atoms in enumerate(frames):
        atoms.info |= {"batch": number // 3, "charge": number % 2, "spin": 1 + number % 2}
    path = tmp_path_factory.mktemp("data") / "eight.xyz"
    write(path, frames)
    return path


@pytest.fixture(scope="module")
def folder(file: Path) -> Path:
    """A store of three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded_build, "SHARD_SIZE", 3)
        assert build_sharded([str(file)], file.parent / "store", BuildSettings()) == 8
    assert len(list((file.parent / "store").glob("*.bin"))) == 3
    return file.parent / "store"


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, GraphSettings(5.0, None, SoftNearest(4.0, 6, 4.0), SETTINGS.elements, stress_scale=-0.1)],
    ids=["chgnet", "allscaip"],
)
def test_samples_are_those_of_the_cache(settings: GraphSettings, file: Path, folder: Path, tmp_path: Path) -> None:
    cached, stored = Dataset([open_store(file, settings, tmp_path)]), Dataset([ShardedStore(folder, settings)])
    assert len(stored) == len(cached) == 8
    for k in range(8):
        one, other = cached[k], stored[k]
        values = {**one.graph.tensors(), **vars(one.targets)}
        again = {**other.graph.tensors(), **vars(other.targets)}
        assert values.keys() == again.keys()
        for name, value in values.items():
            assert value.dtype == again[name].dtype
            assert torch.equal(value.nan_to_num(9.0), again[name].nan_to_num(9.0)), name
        for name in ("atomic_numbers", "positions", "cell", "energy", "stress"):
            assert torch.equal(stored.read(name, k).nan_to_num(9.0), cached.read(name, k).nan_to_num(9.0))
    for name in ("energy", "forces", "stress", "magmoms"):
        assert stored.num_labels(name) == cached.num_labels(name)
    for element in (1, 8, 14, 28):
        assert np.array_equal(stored.contains(element), cached.contains(element))
    assert groups_of(stored, "batch") == groups_of(cached, "batch")
    assert groups_of(stored, "formula") == groups_of(cached, "formula")
    assert stored.info(5) == cached.info(5)


def test_counts_are_those_of_graphs(file: Path, folder: Path, tmp_path: Path) -> None:
    store = ShardedStore(folder, SETTINGS)
    cached = open_store(file, SETTINGS, tmp_path)
    for letter in ("N", "E", "A"):
        assert np.array_equal(store.counts[letter], cached.counts[letter])
    other = ShardedStore(folder, GraphSettings(3.0, 1.5, None, SETTINGS.elements))
    np.testing.assert_allclose(8 * other.counts["E"], store.counts["E"], atol=4)
    np.testing.assert_allclose(64 * other.counts["A"], store.counts["A"], atol=32)
    for k in range(8):
        structure, _ = store.structure(k)
        graph = build_graph(structure, 4.0, 2.5)
        assert count_graph(structure, 4.0, 2.5) == (graph.num_edges, graph.num_angles)


def test_a_run_is_the_same_from_files_and_from_a_store(
    file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with a split by groups; two processes build the graphs of the store."""
    small.without_figures(monkeypatch)
    logs = []
    for name, source, processes in (("files", file, 0), ("store", folder, 2)):
        data = {
            "train": [str(source)],
            "validation": [],
            "split_by": "batch",
            "workers": processes,
            "max_cost": 2e3,
            "batch_size": 2,
        }
        config = small.config(tmp_path / name, file, data=data, run={"epochs": 1})
        train(config)
        lines = read_log(tmp_path / name / "log.jsonl")
        logs.append([{key: value for key, value in line.items() if key != "seconds"} for line in lines])
    assert logs[0] == logs[1]
    assert len(logs[0]) > 3
    first, second = (load_model(tmp_path / name / "last.ckpt").state_dict() for name in ("files", "store"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    split = json.loads((tmp_path / "store" / "split.json").read_text())["files"]
    assert [part["structures"] for part in split] == [8]


def test_sets_of_files_and_stores(file: Path, folder: Path, tmp_path: Path) -> None:
    """Sources may be mixed, a file that is named twice counts once, and stores of the same file have one digest."""
    config = small.config(tmp_path / "run", file, data={"train": [str(file), str(folder)], "validation": [str(folder)]})
    training, validation = open_data(config, initial_model(config))
    assert (len(training), len(validation)) == (16, 8)
    assert torch.equal(training[1].graph.edge_vec, training[9].graph.edge_vec)
    build_sharded([str(file)], tmp_path / "again", BuildSettings())
    build_sharded([str(file)] * 2, tmp_path / "third", BuildSettings())
    first, second = (Dataset([ShardedStore(tmp_path / name, SETTINGS)]) for name in ("again", "third"))
    assert first.digest() == second.digest()
    assert first.digest() != first.subset(np.arange(7)).digest()


def test_the_command(file: Path, tmp_path: Path) -> None:
    """Patterns, label keys, cutoffs; `uip data FILE` still describes a file."""
    frames = read(file, ":2")
    for atoms in frames:
        atoms.info["REF_energy"] = -7.25
    for name in ("a", "b"):
        write(tmp_path / f"{name}.xyz", frames)
    command = ["data", "build", f"{tmp_path}/*.xyz", "-o", str(tmp_path / "store"), "--energy-key", "REF_energy"]
    result = CliRunner().invoke(app, [*command, "--cutoff", "5"])
    assert result.exit_code == 0, result.output
    assert "store: 4 structures" in result.output
    store = ShardedStore(
        tmp_path / "store", GraphSettings(5.0, 3.0, None, SETTINGS.elements, keys=LabelKeys("REF_energy"))
    )
    assert [store.read("energy", k).item() for k in range(4)] == [-7.25] * 4
    assert store.counts["E"][0] == store[0].graph.num_edges
    result = CliRunner().invoke(app, ["data", str(file)])
    assert result.exit_code == 0
    assert "8 of 8" in result.output


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_get_the_same_structures_in_the_same_order(size: int, file: Path, folder: Path, tmp_path: Path) -> None:
    """Each rank's part of each batch, from files and from a store whose graphs are built in another process."""
    data = {"batch_size": 4, "balance_for": 2, "max_cost": 1e3}
    seen = []
    for source, workers in ((file, 0), (folder, 1)):
        config = small.config(
            tmp_path / "run", file, data={**data, "train": [str(source)], "augment": True, "workers": workers}
        )
        model = initial_model(config)
        structures, _ = open_data(config, model)
        state, costs = initial_state(config, model.double()), cost_model(model.name)(structures)
        batches = epoch_batches(costs, 4, 0, 1, num_shards=2)
        parts = [rank_samples(config, state, structures, batches, costs, Ranks(rank, size)) for rank in range(size)]
        seen.append([[[sample.graph.positions for sample in samples] for samples in part] for part in parts])
    assert sum(len(part) for rank in seen[0] for part in rank) > 2
    for one, other in zip(*seen, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
