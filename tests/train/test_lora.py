"""LoRA: gradients, merged weights, resume, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small
import torch
from conftest import random_chgnet

from uip.checkpoint import load_model, read_training, save_checkpoint
from uip.data.sampler import cost_model
from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.models.readout import evaluate
from uip.nn.fused import plain_form
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum
from uip.train.loop import train
from uip.train.loss import penalties, residuals, scales
from uip.train.metrics import read_log
from uip.train.setup import initial_model, open_data
from uip.train.state import State, initial_state
from uip.train.step import Plan, add_gradients, gradient_step


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four structures and a model with other weights than those that made the labels."""
    folder = tmp_path_factory.mktemp("lora")
    small.write_frames(folder / "four.xyz", 4)
    save_checkpoint(random_chgnet(seed=1), folder / "old.ckpt")
    return folder


def adapted(folder: Path, files: Path, **tables: dict[str, Any]) -> TrainConfig:
    """Fine-tune with factors of rank 2."""
    model = {"init_from": str(files / "old.ckpt"), "architecture": {}, "lora_rank": 2, **tables.pop("model", {})}
    return small.config(folder, files / "four.xyz", model=model, **tables)


def started(config: TrainConfig) -> tuple[State, list[Any], Plan]:
    """The state with factors B that are not zero, one batch, and the plan."""
    model = initial_model(config)
    data, _ = open_data(config, model)
    state = initial_state(config, model.double())
    assert state.low_rank is not None
    torch.manual_seed(2)
    with torch.no_grad():
        for factors in state.low_rank.factors.values():
            factors.up.normal_(std=0.1)
    state.low_rank.write_weights()
    return state, [data.batch(range(len(data)))], Plan.of(config, data, cost_model(model.name)(data))


def loss_of(state: State, config: TrainConfig, sample: Any, plan: Plan) -> torch.Tensor:
    """The loss of the plain modules, as a function of their present weights."""
    with plain_form():
        errors = residuals(evaluate(state.model, sample.graph, training=True), sample.targets, sample.graph)
    return (scales(config.loss.weights(0.0), plan.labels) * penalties(errors, config.loss)).sum()


def test_gradients_of_factors_are_derivatives(files: Path, tmp_path: Path) -> None:
    """Of the fused training kernels, by differences of the loss of the plain modules."""
    config = adapted(tmp_path, files)
    state, (sample,), plan = started(config)
    low_rank = state.low_rank
    assert low_rank is not None
    add_gradients(config, state, [sample], plan, alone(state))
    low_rank.pull_gradients()
    assert all(factors.weight.grad is None for factors in low_rank.factors.values())
    assert {name.rpartition(".")[2] for name, _ in state.parameters} == {"lora_a", "lora_b"}
    torch.manual_seed(3)
    directions = [torch.randn_like(p) for _, p in state.parameters]
    expected = sum(
        float((p.grad * d).sum()) for (_, p), d in zip(state.parameters, directions, strict=True) if p.grad is not None
    )
    values, step = [], 1e-5
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for (_, p), d in zip(state.parameters, directions, strict=True):
                p.add_(d, alpha=sign * step)
        low_rank.write_weights()
        values.append(loss_of(state, config, sample, plan).item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-6)
    assert abs(expected) > 1e-3


def test_only_matrices_change_and_by_their_rank(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """best.ckpt is a plain checkpoint; EMA weights are averages of plain matrices."""
    small.without_figures(monkeypatch)
    train(adapted(tmp_path / "run", files, model={"lora_layers": ["atom_updates.*"]}, optim={"ema": 0.0}))
    old, new = (load_model(path, dtype="float64") for path in (files / "old.ckpt", tmp_path / "run" / "best.ckpt"))
    assert new.state_dict().keys() == old.state_dict().keys()
    changed = {}
    for (name, before), after in zip(old.named_parameters(), new.parameters(), strict=True):
        if not torch.equal(before, after):
            changed[name] = torch.linalg.matrix_rank(after - before, rtol=1e-9).item()
    assert changed
    assert all(name.startswith("atom_updates.") and name.endswith(".weight") for name in changed)
    assert set(changed.values()) == {2}


def alone(state: State) -> GradientSum:
    """The gradients of one rank."""
    return GradientSum([parameter for _, parameter in state.parameters], Ranks())


def test_allscaip(files: Path, tmp_path: Path) -> None:
    """Factors fit any architecture: the first step changes B alone, so matrices change by their rank."""
    shape = {"num_elements": 30, "channels": 16, "num_layers": 1, "num_heads": 2, "num_radial": 8}
    torch.manual_seed(0)
    save_checkpoint(AllScAIP(AllScAIPConfig(**shape, k=6.0, nearest=12)), tmp_path / "old.ckpt")
    config = adapted(tmp_path, files, model={"init_from": str(tmp_path / "old.ckpt")}, optim={"ema": 0.0})
    model = initial_model(config)
    data, _ = open_data(config, model)
    state = initial_state(config, model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    plan = Plan.of(config, data, cost_model(model.name)(data))
    gradient_step(config, state, [data.batch([0, 1])], plan, alone(state))
    assert state.low_rank is not None
    ranks = {
        name: torch.linalg.matrix_rank(value - before[name], rtol=1e-9).item()
        for name, value in model.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert set(ranks.values()) == {2}
    assert ranks.keys() <= state.low_rank.factors.keys()


def test_named_weights_are_trained_as_they_are(files: Path, tmp_path: Path) -> None:
    state = initial_state(config := adapted(tmp_path, files, model={"trainable": ["readout.*"]}), initial_model(config))
    names = {name for name, _ in state.parameters}
    assert {"readout.0.weight", "readout.0.bias", "atom_updates.0.output.weight.lora_a"} <= names
    assert not any(name.startswith("readout.") and "lora" in name for name in names)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resume_to_the_bit(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    small.without_figures(monkeypatch)
    for name, epochs in (("whole", (2,)), ("cut", (1, 2))):
        for number in epochs:
            run, optim = {"epochs": number, "dtype": dtype}, {"schedule": "constant"}
            config = adapted(tmp_path / name, files, run=run, optim=optim, data={"batch_size": 2})
            train(config, resume=number != epochs[0])
    whole, cut = (read_training(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    for one, other in ((whole["state"], cut["state"]), (whole["average"]["weights"], cut["average"]["weights"])):
        assert all(torch.equal(one[name], other[name]) for name in one)
    for name, factors in whole["lora"].items():
        assert all(torch.equal(value, cut["lora"][name][key]) for key, value in factors.items())
        assert torch.equal(whole["state"][name], torch.addmm(factors["base"], factors["up"], factors["down"]))
    losses = [
        [line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] != "settings"]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]


def test_two_ranks_equal_one(files: Path, tmp_path: Path) -> None:
    """Each computes half of the batch; the sum of the gradients of factors is that of one rank."""
    config = adapted(tmp_path, files)
    state, (sample,), plan = started(config)
    data, _ = open_data(config, state.model)
    low_rank = state.low_rank
    assert low_rank is not None
    found = []
    for parts in (([0, 1, 2, 3],), ([0, 3], [1, 2])):
        total = [torch.zeros_like(p) for _, p in state.parameters]
        for part in parts:
            add_gradients(config, state, [data.batch(part)], plan, alone(state))
            low_rank.pull_gradients()
            total = [t if p.grad is None else t + p.grad for t, (_, p) in zip(total, state.parameters, strict=True)]
        found.append(total)
    assert sample.graph.num_graphs == 4
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)


def test_a_rank_without_structures(files: Path, tmp_path: Path) -> None:
    """It has zero gradients, and the same factors as before where AdamW has no momentum."""
    config = adapted(tmp_path, files)
    state, _, plan = started(config)
    before = [p.detach().clone() for _, p in state.parameters]
    gradient_step(config, state, [], plan, alone(state))
    assert all(torch.equal(p, old) for (_, p), old in zip(state.parameters, before, strict=True))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"lora_rank": -1}, r"'model\.lora_rank' must be at least 1, or 0 for none, got -1"),
        ({"lora_rank": 0, "lora_layers": ["readout.*"]}, r"'model\.lora_layers' needs 'model\.lora_rank', which is 0"),
        ({"init_from": ""}, r"'model\.lora_rank' changes trained weights, but 'model\.init_from' is empty"),
        (
            {"lora_layers": ["head.*"]},
            r"'model\.lora_layers' must name linear layers, but 'head\.\*' matches none of: ",
        ),
        ({"lora_rank": 64}, r"more numbers than two factors of rank 64, got .*edge_embedding\.weight \(\d+, \d+\)"),
        ({"trainable": ["*.*"]}, r"factors of rank 2, got only layers that model\.trainable names; lower"),
        (
            {"architecture": {"readout": "direct"}},
            r"with 'model\.lora_rank' the readout must be that of '.*', 'gradient'",
        ),
    ],
)
def test_mistakes(files: Path, tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(adapted(tmp_path, files, model=model))


def test_muon_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'optim\.optimizer' must be 'adamw' with 'model\.lora_rank', got 'muon'"):
        adapted(tmp_path, files, optim={"optimizer": "muon"})
