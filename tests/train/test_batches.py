"""Composition of batches: each structure once, never too many, and no effect on what the loss is in expectation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

from uip.data.sampler import cost_model, epoch_batches
from uip.data.samples import Sample
from uip.train import step
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum
from uip.train.loss import LOSS_TERMS, count_labels
from uip.train.setup import initial_model, open_data
from uip.train.state import initial_state
from uip.train.step import Plan, add_gradients


@pytest.mark.parametrize("num_structures", [1, 7, 300, 5000])
@pytest.mark.parametrize(("batch_size", "num_shards"), [(4, 1), (4, 4), (16, 5), (128, 32)])
def test_batches_are_not_larger_than_allowed(num_structures: int, batch_size: int, num_shards: int) -> None:
    """Costs are as uneven as those of real crystals."""
    costs = np.random.default_rng(0).lognormal(0.0, 0.92, num_structures)
    epochs = [epoch_batches(costs, batch_size, 1, epoch, num_shards) for epoch in range(5)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(num_structures))
        assert max(len(batch) for batch in batches) <= batch_size
        assert len(batches) == len(epochs[0])


def test_batches_are_of_equal_size_where_no_balance_is_asked_for() -> None:
    costs = np.random.default_rng(0).lognormal(0.0, 0.92, 300)
    assert [len(batch) for batch in epoch_batches(costs, 4, 0, 0)] == [4] * 75
    assert sorted(len(batch) for batch in epoch_batches(costs[:10], 4, 0, 0)) == [3, 3, 4]
    assert epoch_batches(costs[:0], 4, 0, 0) == []


def gradients(config: TrainConfig) -> tuple[list[int], torch.Tensor]:
    """Sizes of the batches of an epoch, and the mean of their gradients, flat."""
    torch.manual_seed(0)
    model = initial_model(config)
    data, _ = open_data(config, model)
    state = initial_state(config, model.double())
    costs = cost_model(model.name)(data)
    plan = Plan.of(config, data, costs)
    assert plan.labels.tolist() == (count_labels(data.batch(range(len(data))).targets) / plan.num_steps).tolist()
    batches = epoch_batches(costs, config.data.batch_size, 0, 0, config.data.balance_for)
    total = torch.zeros(sum(p.numel() for _, p in state.parameters), dtype=torch.float64)
    summed = GradientSum([p for _, p in state.parameters], Ranks())
    for batch in batches:
        add_gradients(config, state, [data.batch(batch)], plan, summed)
        total += torch.cat(
            [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for _, p in state.parameters]
        )
    return [len(batch) for batch in batches], total / len(batches)


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"batch_size": 4, "balance_for": 2}])
def test_the_mean_gradient_of_an_epoch_is_that_of_the_whole_set(changes: dict, tmp_path: Path) -> None:
    """Structures of different size and labels; in the second case the large ones form a batch of two."""
    file = small.write_frames(tmp_path / "seven.xyz", 7)
    tables = {"loss": dict.fromkeys(LOSS_TERMS, 1.0), "run": {"epochs": 1}}
    whole, composed = (
        gradients(small.config(tmp_path, file, data=data, **tables)) for data in ({"batch_size": 7}, changes)
    )
    assert whole[0] == [7]
    assert len(composed[0]) > 1
    assert len(set(composed[0])) > 1
    assert whole[1].norm() > 1e-3
    assert (composed[1] - whole[1]).norm() < 1e-12 * whole[1].norm()


def test_portions_of_a_step_are_on_the_device_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And they are moved without waiting for the transfer."""
    config = small.config(tmp_path, small.write_frames(tmp_path / "four.xyz", 4))
    model = initial_model(config)
    data, _ = open_data(config, model)
    state = initial_state(config, model.double())
    plan = Plan.of(config, data, cost_model(model.name)(data))
    done: list[str] = []
    move, compute = Sample.to, step.evaluate

    def moved(sample: Sample, **options: Any) -> Sample:
        assert options["non_blocking"]
        done.append("moved")
        return move(sample, **options)

    def computed(*arguments: Any, **options: Any) -> object:
        done.append("computed")
        return compute(*arguments, **options)

    monkeypatch.setattr(Sample, "to", moved)
    monkeypatch.setattr(step, "evaluate", computed)
    summed = GradientSum([p for _, p in state.parameters], Ranks())
    add_gradients(config, state, [data.batch([k]) for k in range(3)], plan, summed)
    assert done == ["moved", "computed"] * 3


def test_samples_are_moved_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small.config(tmp_path, small.write_frames(tmp_path / "one.xyz", 1))
    sample = open_data(config, initial_model(config))[0].batch([0])
    waits: list[bool] = []
    move = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda tensor, **options: (waits.append(options["non_blocking"]), move(tensor, **options))[1],
    )
    sample.to(device="cpu", non_blocking=True)
    assert waits == [True] * (len(sample.graph.tensors()) + 4)
