"""How batches are made: ahead of need, turned at random, weighed by what they cost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import small
import torch

from uip.checkpoint import read_training
from uip.data.augment import random_rotation, rotated
from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.data.prefetch import prefetch
from uip.data.sampler import CostModel, cost_model
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.models.readout import evaluate
from uip.train.config import make_config
from uip.train.loop import train
from uip.train.setup import initial_model
from uip.train.state import revision


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "eight.xyz")


def dataset(path: Path) -> Dataset:
    return Dataset([open_store(path, GraphSettings(6.0, 3.0, None, tuple(range(1, 31))), path.parent / "cache")])


def test_items_come_in_order_and_ahead() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        begun[number].set()
        return number

    items = prefetch(lambda number=number: make(number) for number in range(4))
    assert next(items) == 0
    assert begun[1].wait(10.0)  # before anybody asks for it
    assert not begun[2].is_set()
    assert list(items) == [1, 2, 3]
    assert list(prefetch([])) == []


def test_items_of_processes_come_in_order() -> None:
    items = list(prefetch([lambda number=number: (number, os.getpid()) for number in range(9)], workers=2))
    assert [number for number, _ in items] == list(range(9))
    assert len({process for _, process in items} - {os.getpid()}) == 2
    assert list(prefetch([], workers=2)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_where_its_item_would_have(workers: int) -> None:
    def fail() -> int:
        raise ValueError("structure 7 is gone")

    items = prefetch([lambda: 1, fail, lambda: 3], workers)
    assert next(items) == 1
    with pytest.raises(ValueError, match="structure 7 is gone"):
        next(items)


def test_rotations_are_proper_uniform_and_repeatable() -> None:
    turns = torch.stack([random_rotation(1, 2, number) for number in range(2000)])
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand(2000, 3, 3), rtol=0.0, atol=1e-14)
    assert (torch.linalg.det(turns) > 0.999).all()
    assert turns.mean(0).abs().max() < 0.06  # no direction is preferred
    assert torch.equal(random_rotation(1, 2, 3), turns[3])
    assert not torch.equal(random_rotation(1, 3, 3), turns[3])


def test_a_turned_structure_has_turned_labels(data: Path) -> None:
    """The predictions of a rotated structure are the rotated predictions."""
    torch.manual_seed(1)
    model = CHGNet(CHGNetConfig(**small.ARCHITECTURE)).double()
    sample, turn = dataset(data)[3], random_rotation(5)
    first, second = (evaluate(model, one.graph) for one in (sample, rotated(sample, turn)))
    labels = {"energy": first.energy, "forces": first.forces, "stress": first.stress, "magmoms": first.magmoms}
    expected = rotated(type(sample)(sample.graph, type(sample.targets)(**labels)), turn).targets
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(second, name), value, rtol=1e-9, atol=1e-10)


def test_rotation_is_a_choice_and_follows_from_the_architecture(data: Path, tmp_path: Path) -> None:
    assert [make_config({"data": {"train": "a"}}).data.augments(name) for name in ("chgnet", "allscaip")] == [
        False,
        True,
    ]
    assert make_config({"data": {"train": "a", "augment": True}}).data.augments("chgnet")
    with pytest.raises(ValueError, match=r"'data\.augment' must be true or false, got 'yes'"):
        make_config({"data": {"train": "a", "augment": "yes"}})
    weights = []
    for name, turn in (("plain", False), ("turned", True)):
        config = small.config(tmp_path / name, data, data={"augment": turn}, loss={"kind": "mse"}, run={"epochs": 1})
        train(config)
        weights.append(read_training(tmp_path / name / "last.ckpt")["state"]["readout.0.weight"])
    # an invariant model learns the same from squared errors, to rounding, and not to the last bit
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-8)
    assert not torch.equal(*weights)


def test_costs_follow_the_architecture(data: Path) -> None:
    structures = dataset(data)
    atoms, edges, angles = (structures.counts(letter) for letter in ("N", "E", "A"))
    np.testing.assert_allclose(CostModel(1.0, 2.0, 3.0)(structures), atoms + 2.0 * edges + 3.0 * angles)
    assert cost_model("chgnet") == CostModel()
    np.testing.assert_allclose(cost_model("allscaip")(structures), 30.0 * atoms + atoms**2)


def test_each_step_is_watched_and_the_code_is_known(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    train(small.config(tmp_path / "run", data, run={"epochs": 2}), on_step=lambda *numbers: seen.append(numbers))
    assert seen == [(step, 4, 4) for step in (1, 2, 3, 4)]
    saved = read_training(tmp_path / "run" / "last.ckpt")
    assert saved["version"]
    assert saved["revision"] == revision()
    assert revision(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "chgnot", "architecture": {}}, r"'model\.kind' must be one of chgnet, allscaip, got 'chgnot'"),
        (
            {"kind": "allscaip", "init_from": "chgnet-0.3.0"},
            "'model.kind' is 'allscaip', but 'chgnet-0.3.0' is 'chgnet'",
        ),
        (
            {"init_from": "chgnet-0.3.0", "architecture": {"channels": 8}},
            "must fit the weights of 'chgnet-0.3.0', but size",
        ),
        (
            {"init_from": "chgnet-0.3.0", "architecture": {"num_layers": 3}},
            "must fit the weights of .*, but Unexpected",
        ),
    ],
)
def test_models_that_cannot_start(model: dict, message: str, data: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", data)
    with pytest.raises(ValueError, match=message):
        initial_model(make_config({"data": {"train": config.data.train}, "model": model}))
