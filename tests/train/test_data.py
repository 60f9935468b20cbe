"""Data sets: what comes back from the cache, what is refused, and the messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import systems
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from uip.data import cache_build
from uip.data.dataset import Dataset, GraphSettings, make_sample, open_store
from uip.data.labels import labels_from_atoms
from uip.data.reference_energies import compositions, energies, fit_reference
from uip.data.sampler import assign_to_ranks, epoch_batches, epoch_order, micro_batches
from uip.data.split import group_split, groups_of, random_split
from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import batch
from uip.train.setup import initial_model, open_data

SETTINGS = GraphSettings(6.0, 3.0, None, tuple(range(1, 31)))


def test_the_cache_gives_back_what_was_built(tmp_path: Path) -> None:
    frames = small.frames(4)
    write(tmp_path / "a.xyz", frames)
    data = Dataset([open_store(tmp_path / "a.xyz", SETTINGS, tmp_path)])
    from ase.io import read

    for k, atoms in enumerate(read(tmp_path / "a.xyz", ":")):
        built = make_sample(structure_from_atoms(atoms), labels_from_atoms(atoms), SETTINGS)
        for name, value in {**built.graph.tensors(), **vars(built.targets)}.items():
            again = {**data[k].graph.tensors(), **vars(data[k].targets)}[name]
            assert again.dtype == value.dtype
            torch.testing.assert_close(again, value, rtol=0.0, atol=0.0, equal_nan=True)
    joined = data.batch([2, 0])
    assert torch.equal(joined.graph.angle_index, batch([data[2].graph, data[0].graph]).angle_index)


def test_the_cache_is_used_again_and_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small.write_frames(tmp_path / "a.xyz", 2)
    open_store(path, SETTINGS, tmp_path / "cache")
    built: list[Path] = []
    original = cache_build.write_store
    monkeypatch.setattr(
        cache_build, "write_store", lambda folder, samples: (built.append(folder), original(folder, samples))
    )
    open_store(path, SETTINGS, tmp_path / "cache")
    assert not built
    small.write_frames(path, 3)
    assert len(open_store(path, SETTINGS, tmp_path / "cache")) == 3
    open_store(path, GraphSettings(5.0, 3.0, None, SETTINGS.elements), tmp_path / "cache")
    assert len(built) == 2


def test_an_interrupted_build_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    frames = small.frames(3)
    frames[2].calc.results["forces"][0, 1] = np.nan
    write(tmp_path / "a.xyz", frames)
    for _ in range(2):
        with pytest.raises(ValueError, match="structure 2"):
            open_store(tmp_path / "a.xyz", SETTINGS, tmp_path / "cache")


def labelled(atoms: Atoms, **labels: object) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def test_lonely_atoms_are_welcome(tmp_path: Path) -> None:
    write(tmp_path / "one.xyz", labelled(systems.lone_atom(), energy=-3.0, forces=np.zeros((1, 3))))
    sample = Dataset([open_store(tmp_path / "one.xyz", SETTINGS, tmp_path)]).batch([0])
    assert sample.graph.num_edges == 0
    assert sample.targets.energy.tolist() == [-3.0]


def test_splits() -> None:
    training, validation = random_split(100, 0.2, seed=1)
    assert sorted([*training, *validation]) == list(range(100))
    assert len(validation) == 20
    assert np.array_equal(validation, random_split(100, 0.2, seed=1)[1])
    assert not np.array_equal(validation, random_split(100, 0.2, seed=2)[1])
    assert [len(part) for part in random_split(2, 0.01, seed=0)] == [1, 1]
    with pytest.raises(ValueError, match=r"must lie between 0 and 1, got 1\.5"):
        random_split(10, 1.5, seed=0)
    with pytest.raises(ValueError, match="at least two structures, got 1"):
        random_split(1, 0.5, seed=0)


def test_groups_stay_together(tmp_path: Path) -> None:
    groups = [f"g{k}" for k in np.random.default_rng(0).integers(0, 12, 200)]
    training, validation = group_split(groups, 0.2, seed=1)
    assert sorted([*training, *validation]) == list(range(200))
    assert not {groups[k] for k in training} & {groups[k] for k in validation}
    assert 20 <= len(validation) <= 60
    assert np.array_equal(validation, group_split(groups, 0.2, seed=1)[1])
    assert not np.array_equal(validation, group_split(groups, 0.2, seed=2)[1])
    assert [len(part) for part in group_split(["a", "b", "b"], 0.01, seed=0)] in ([2, 1], [1, 2])
    with pytest.raises(ValueError, match=r"needs at least two groups, got 1 \(a\); split by another key"):
        group_split(["a", "a"], 0.5, seed=0)


def test_groups_are_formulas_or_keys_of_a_file(tmp_path: Path) -> None:
    frames = small.frames(8)
    for number, atoms in enumerate(frames):
        atoms.info["batch"] = number // 3
    write(tmp_path / "a.xyz", frames)
    data = Dataset([open_store(tmp_path / "a.xyz", SETTINGS, tmp_path)])
    assert groups_of(data, "formula") == [atoms.symbols.formula.reduce()[0].format("hill") for atoms in frames]
    assert groups_of(data.subset(np.array([7, 0])), "batch") == ["2", "0"]
    with pytest.raises(ValueError, match="'mp_id' is missing from structure 0, which has: batch"):
        groups_of(data, "mp_id")
    config = small.config(tmp_path / "run", tmp_path / "a.xyz", data={"validation": [], "split_by": "formula"})
    training, validation = open_data(config, initial_model(config))
    assert not set(groups_of(training, "formula")) & set(groups_of(validation, "formula"))


def test_reference_energies_are_found(tmp_path: Path) -> None:
    truth = np.zeros(30)
    truth[[13, 27, 7]] = [-5.4, -5.7, -4.9]
    counts = np.random.default_rng(0).integers(0, 9, (40, 30)) * (truth != 0)
    counts[:, 13] += 1
    energy = counts @ truth
    energy[3] = np.nan
    np.testing.assert_allclose(fit_reference(counts.astype(float), energy), truth, atol=1e-9)
    data = Dataset([open_store(small.write_frames(tmp_path / "a.xyz", 4), SETTINGS, tmp_path)])
    assert compositions(data, 30).sum(axis=1).tolist() == data.counts("N").tolist()
    assert np.isfinite(energies(data)).all()


def test_every_structure_is_assigned_to_one_rank_once_an_epoch() -> None:
    order = epoch_order(50, seed=3, epoch=1)
    assert sorted(order) == list(range(50))
    assert not np.array_equal(order, epoch_order(50, seed=3, epoch=2))
    costs = np.random.default_rng(0).lognormal(0.0, 1.0, 50)
    for chunk in epoch_batches(costs, 16, seed=3, epoch=1):
        shards = assign_to_ranks(costs[chunk], 4)
        assert sorted(np.concatenate(shards)) == list(range(len(chunk)))
    loads = [costs[shard].sum() for shard in assign_to_ranks(costs, 4)]
    assert max(loads) - min(loads) <= costs.max()
    assert [len(shard) for shard in assign_to_ranks(np.ones(2), 3)] == [1, 1, 0]


def test_micro_batches_keep_below_the_limit() -> None:
    costs = np.array([5.0, 1.0, 1.0, 9.0, 2.0])
    assert [part.tolist() for part in micro_batches(np.arange(5), costs, 6.0)] == [[0, 1], [2], [3], [4]]
    assert [part.tolist() for part in micro_batches(np.arange(5), costs, 0.0)] == [[0, 1, 2, 3, 4]]
    assert micro_batches(np.arange(0), costs, 0.0) == []


def test_learning_rates() -> None:
    from uip.train.optim import OptimConfig, learning_rate

    config = OptimConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    assert [learning_rate(config, step, 110, 16) for step in (0, 9)] == [0.1, 1.0]
    assert learning_rate(config, 60, 110, 16) == pytest.approx(0.55)
    assert learning_rate(config, 110, 110, 16) == pytest.approx(0.1)
    assert learning_rate(OptimConfig(learning_rate=1.0, schedule="constant"), 99, 100, 16) == 1.0
    # the paper's rule: 3e-4 at a global batch of 128
    assert learning_rate(OptimConfig(learning_rate=3e-4, reference_batch=128), 0, 100, 2048) == pytest.approx(4.8e-3)


def test_the_average_follows_the_weights() -> None:
    from uip.train.optim import EMA

    model = torch.nn.Linear(1, 1)
    average = EMA(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    for _ in range(300):
        average.update(model)
    assert float(average.weights["weight"]) == pytest.approx(3.0, abs=1e-6)
    again = EMA(torch.nn.Linear(1, 1), 0.9)
    again.load(average.state())
    assert torch.equal(again.weights["weight"], average.weights["weight"])
    assert again.updates == 300


def test_weights_decay_in_matrices_alone() -> None:
    from uip.models.chgnet import CHGNet, CHGNetConfig
    from uip.train.optim import OptimConfig, make_optimizer, select_trainable

    model = CHGNet(CHGNetConfig(**small.ARCHITECTURE))
    optimizer = make_optimizer(model, select_trainable(model, ["*"]), OptimConfig(weight_decay=0.1))
    decaying = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decaying}
    assert "readout.0.weight" in names
    assert not names & {"atom_embedding.weight", "readout.0.bias", "edge_basis.frequencies", "readout_norm.weight"}


def test_muon_has_the_matrices_of_linear_layers() -> None:
    from uip.models.allscaip import AllScAIP, AllScAIPConfig
    from uip.train.muon import Muon
    from uip.train.optim import OptimConfig, make_optimizer, select_trainable

    model = AllScAIP(AllScAIPConfig(channels=16, num_layers=1, num_heads=2, num_radial=8))
    parameters = select_trainable(model, ["*"])
    optimizer = make_optimizer(model, parameters, OptimConfig(optimizer="muon", learning_rate=0.01))
    assert isinstance(optimizer, Muon)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(parameters)
    matrices = {id(p) for p in optimizer.parts[1].param_groups[0]["params"]}
    names = {name for name, p in parameters if id(p) in matrices}
    assert {"blocks.0.node.qkv.weight", "embedding.bond.weight"} <= names
    assert not names & {"embedding.element.weight", "embedding.charge.weight", "energy.second.weight"}
    for _, p in parameters:
        p.grad = torch.randn_like(p) * torch.logspace(-1, 0, p.numel()).view_as(p)
    before = {name: p.detach().clone() for name, p in parameters}
    optimizer.step()
    # singular values of an update are similar, whatever the gradient was, and its size is that of AdamW
    for name in names:
        change = model.get_parameter(name).detach() - before[name]
        values = torch.linalg.svdvals(change)
        assert values.max() < 2 * values.median(), name
        torch.testing.assert_close(change.square().mean().sqrt(), torch.tensor(0.002), rtol=0.2, atol=0.0)


def test_muon_trains_a_choice_of_matrices() -> None:
    from uip.models.chgnet import CHGNet, CHGNetConfig
    from uip.train.optim import OptimConfig, make_optimizer, select_trainable

    model = CHGNet(CHGNetConfig(**small.ARCHITECTURE))
    for patterns in (["readout.0.weight"], ["atom_embedding.weight"]):
        parameters = select_trainable(model, patterns)
        optimizer = make_optimizer(model, parameters, OptimConfig(optimizer="muon"))
        assert [p for group in optimizer.param_groups for p in group["params"]] == [p for _, p in parameters]
