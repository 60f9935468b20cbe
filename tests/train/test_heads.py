"""Several heads on one trunk: what is shared, what each head learns, resume, ranks, mistakes."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from conftest import random_allscaip, random_chgnet
from test_ranks import torchrun
from test_resume import same_checkpoints, without_times
from two_heads import NEW, two_heads, write_files

from uip.checkpoint import load_heads, load_model, save_checkpoint
from uip.data.sampler import cost_model
from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.train.__main__ import main
from uip.train.config import TrainConfig, changes, make_config
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum
from uip.train.heads import by_head, of_head
from uip.train.loop import gradient_order, rank_samples, train
from uip.train.metrics import read_log
from uip.train.references import set_references
from uip.train.setup import data_warnings, initial_model, open_data, set_coverage
from uip.train.state import State, initial_state
from uip.train.step import Plan, add_gradients
from uip.train.template import settings_text
from uip.train.validation import format_errors, validate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCALE = {"num_elements": 30, "channels": 16, "num_layers": 1, "num_heads": 2, "num_radial": 8, "k": 6.0, "nearest": 12}
KINDS: dict[str, dict[str, Any]] = {
    "chgnet": {"architecture": small.ARCHITECTURE},
    "chgnet, direct": {"architecture": {**small.ARCHITECTURE, "readout": "direct"}},
    "allscaip": {"kind": "allscaip", "architecture": SCALE},
    "allscaip, direct": {"kind": "allscaip", "architecture": {**SCALE, "readout": "direct"}},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("heads"))


def opened(config: TrainConfig) -> tuple[Heads, Any, Any]:
    """Model with reference energies; training and validation data with moved labels."""
    model = initial_model(config)
    data, validation = open_data(config, model)
    shifts = set_references(config, model, data, Ranks())
    assert isinstance(model, Heads)
    return model, data.shifted(shifts), validation.shifted(shifts)


def started(config: TrainConfig) -> tuple[State, Any, Plan]:
    """The state, in float64, training data, and the plan."""
    model, data, _ = opened(config)
    plan = Plan.of(config, data, cost_model(model.name)(data))
    return initial_state(config, model.double()), data, plan


def gradients(config: TrainConfig, state: State, plan: Plan, samples: list[Any]) -> dict[str, Any]:
    """Of the loss, by name of the weight; None where the samples do not reach it."""
    add_gradients(config, state, samples, plan, GradientSum([p for _, p in state.parameters], Ranks()))
    return {name: p.grad for name, p in state.parameters}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """To rounding; None is zero."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        first, second = (torch.zeros(()) if grad is None else grad for grad in (value, other[name]))
        assert torch.allclose(first, second, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_a_head_do_not_touch_another(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Of a batch with both heads, the gradient of the trunk is the sum; that of each readout is of its labels alone."""
    config = two_heads(tmp_path, files, model={"init_from": "", **KINDS[kind]})
    state, data, plan = started(config)
    mine, others = ([data.batch(part)] for part in by_head(config, data, np.arange(len(data))))
    alone = {"pbe": gradients(config, state, plan, mine), "meta": gradients(config, state, plan, others)}
    for head, found in alone.items():
        reached = {name.partition(".")[0] for name, grad in found.items() if grad is not None and grad.any()}
        assert reached & {"pbe", "meta"} == {head}
        trunk = "atom_embedding" if kind.startswith("chgnet") else "embedding"
        assert trunk in reached
    both = gradients(config, state, plan, [*mine, *others])
    total = {
        name: None if grad is None and other is None else sum(g for g in (grad, other) if g is not None)
        for (name, grad), other in zip(alone["pbe"].items(), alone["meta"].values(), strict=True)
    }
    assert_same(both, total)


def test_heads_share_their_trunk(files: dict[str, Path], tmp_path: Path) -> None:
    """One copy of its weights, also after moves between precisions; readouts and buffers are copies."""
    for model in (random_chgnet(), random_allscaip()):
        heads = Heads.of(model, ["pbe", "meta"]).float()
        one, other = heads.heads.values()
        own = {name for name, p in one.named_parameters() if p is not dict(other.named_parameters())[name]}
        assert {name.partition(".")[0] for name in own} == set(model.readouts) - {"direct", "force"}
        readout = sum(p.numel() for name, p in model.named_parameters() if name in own)
        assert sum(p.numel() for p in heads.parameters()) == sum(p.numel() for p in model.parameters()) + readout
        assert one.reference_energy is not other.reference_energy
        assert one.reference_energy.dtype == model.float().reference_energy.dtype


def test_all_heads_start_from_the_readout(files: dict[str, Path], tmp_path: Path) -> None:
    config = two_heads(tmp_path, files)
    old, model = load_model(files["old"], dtype="float64"), initial_model(config)
    data, _ = open_data(config, model)
    graph = data.batch([0, 6]).graph
    wanted = evaluate(old, graph)
    for head in model.heads.values():
        found = evaluate(head, graph)
        assert torch.allclose(found.energy, wanted.energy, rtol=1e-9)
        assert torch.allclose(found.forces, wanted.forces, atol=1e-9)


def test_each_head_has_reference_energies_of_its_labels(files: dict[str, Path], tmp_path: Path) -> None:
    """The labels are those of the model but for the zero of "meta": with its own zero no head has an error."""
    model, data, _ = opened(two_heads(tmp_path, files, data={"reference": "keep"}))
    old = load_model(files["old"], dtype="float64")
    assert torch.equal(model.heads["pbe"].reference_energy, old.reference_energy)
    assert not torch.allclose(model.heads["meta"].reference_energy, old.reference_energy, atol=0.1)
    for k in range(len(data)):
        sample = data[k]
        head = model.heads["pbe" if k < 5 else "meta"]
        assert abs(float(evaluate(head, sample.graph).energy - sample.targets.energy)) < 1e-5 * sample.graph.num_atoms
        assert sample.targets.energy == data.stores[int(k >= 5)].read("energy", k % 5)


def test_a_further_set_of_a_head_is_moved_to_its_zero(files: dict[str, Path], tmp_path: Path) -> None:
    sets = {
        "other": {"train": str(files["meta"]), "validation": str(files["meta"]), "head": "meta"},
        "more": {"train": str(files["pbe"]), "validation": str(files["pbe"]), "head": "meta"},
    }
    model, data, _ = opened(two_heads(tmp_path, files, data={"sets": sets}))
    assert len(data) == 15
    for k in range(10, 15):
        sample = data[k]
        error = float(evaluate(model.heads["meta"], sample.graph).energy - sample.targets.energy)
        assert abs(error) < 1e-5 * sample.graph.num_atoms
        assert abs(sample.targets.energy - data[k - 10].targets.energy) > 0.1


def test_given_reference_energies_of_a_head(files: dict[str, Path], tmp_path: Path) -> None:
    model, _, _ = opened(two_heads(tmp_path, files, other={"reference_energies": {"Si": -7.5}}))
    assert model.heads["meta"].reference_energy[13] == -7.5
    assert model.heads["pbe"].reference_energy[13] != -7.5
    with pytest.raises(ValueError, match=r"unknown key 'data\.sets\.other\.reference_energies\.Sx'; did you mean"):
        opened(two_heads(tmp_path, files, other={"reference_energies": {"Sx": -7.5}}))


def test_batches_and_ranks_are_those_of_one_head(files: dict[str, Path], tmp_path: Path) -> None:
    """Only micro-batches differ: each has one head, and none is larger than asked."""
    config = two_heads(tmp_path, files, data={"batch_size": 10})
    state, data, plan = started(config)
    costs = cost_model("chgnet")(data)
    found = []
    for ranks in (Ranks(0, 2), Ranks(1, 2)):
        (samples,) = rank_samples(config, state, data, [np.arange(10)], costs, ranks)
        assert all(len(set(sample.sets.tolist())) == 1 for sample in samples)
        found += samples
    assert sum(sample.graph.num_graphs for sample in found) == 10
    assert_same(
        gradients(config, state, plan, found),
        gradients(config, state, plan, [data.batch(range(5)), data.batch(range(5, 10))]),
    )


def test_weights_of_heads_are_summed_last(files: dict[str, Path], tmp_path: Path) -> None:
    """Buckets are sent in the reverse order, and the last waits for the end of a step."""
    state, _, _ = started(two_heads(tmp_path, files))
    names = [name.partition(".")[0] for name, _ in gradient_order(state)]
    count = sum(name in ("pbe", "meta") for name in names)
    assert set(names[:count]) == {"pbe", "meta"}
    assert len(names) == len(state.parameters) > count


@pytest.mark.slow
def test_two_ranks_are_one(files: dict[str, Path], tmp_path: Path) -> None:
    """Batches of at most 3 of 10 structures: often a rank has one head only."""
    for name in ("one", "two"):
        tables = {"data": {"batch_size": 3}, "run": {"epochs": 4, "max_jump": 0.0}}
        config = two_heads(tmp_path / name, files, **tables)
        (tmp_path / f"{name}.toml").write_text(settings_text(config))
    assert main([str(tmp_path / "one.toml")]) == 0
    result = torchrun(2, "-m", "uip.train", str(tmp_path / "two.toml"))
    assert result.returncode == 0, result.stderr
    one, two = (load_heads(tmp_path / name / "last.ckpt", dtype="float64").state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8, msg=name)


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "lora": {"model": {"lora_rank": 2}},
    "muon, new": {"model": NEW, "optim": {"optimizer": "muon"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_to_the_bit(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """With an EMA, in float32, within an epoch."""
    small.without_figures(monkeypatch)
    run = {"epochs": 2, "checkpoint_steps": 2, "dtype": "float32"}
    whole, cut = (two_heads(tmp_path / name, files, run=run, **VARIANTS[variant]) for name in ("whole", "cut"))
    train(whole)
    import uip.train.loop

    original, steps = uip.train.loop.gradient_step, []

    def power_cut(*arguments: Any) -> Any:
        steps.append(None)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(uip.train.loop, "gradient_step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    train(cut, resume=True)
    assert same_checkpoints(tmp_path / "whole" / "last.ckpt", tmp_path / "cut" / "last.ckpt")
    assert without_times(tmp_path / "whole" / "log.jsonl") == without_times(tmp_path / "cut" / "log.jsonl")
    other = replace(cut.data.sets["other"], head="pbe")
    data = replace(cut.data, head="meta", sets={"other": other})
    with pytest.raises(ValueError, match=r"but data\.head, data\.sets\.other\.head changed since"):
        train(replace(cut, data=data), resume=True)


def test_a_run_of_an_earlier_version_resumes(files: dict[str, Path], tmp_path: Path) -> None:
    """It knows nothing of heads, also in the tables of its data sets."""
    config = two_heads(tmp_path, files, model={"heads": []}, other={"head": ""})
    saved = config.values()
    for table, names in ((saved["model"], ("heads", "init_head")), (saved["data"], ("head",))):
        for name in names:
            table.pop(name)
    for name in ("head", "test", "reference_energies"):
        saved["data"]["sets"]["other"].pop(name)
    assert changes(config, saved) == {}


def test_errors_of_each_head(files: dict[str, Path], tmp_path: Path) -> None:
    config = two_heads(tmp_path, files, other={"weight": 0.25})
    model, _, data = opened(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    found = validate(config, model.double(), data, Ranks())
    alone = {head: validate(config, model, of_head(config, data, head), Ranks()) for head in ("pbe", "meta")}
    for term in ("energy", "forces", "stress", "magmoms"):
        assert found[f"{term}_by_head"] == pytest.approx({head: line[term] for head, line in alone.items()})
    assert found["energy_by_set"] == pytest.approx({"main": alone["pbe"]["energy"], "other": alone["meta"]["energy"]})
    assert found["energy"] == pytest.approx((alone["pbe"]["energy"] + alone["meta"]["energy"]) / 2)
    assert re.match(r"pbe: energy .* meV/atom, .* mu_B; meta: energy .* mu_B$", format_errors(found))


def test_heads_that_predict_different_properties(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new model: "meta" has structures without moments and without Ni, and a test set of its own."""
    small.without_figures(monkeypatch)
    other = {"train": str(files["plain"]), "test": str(files["plain"])}
    messages: list[str] = []
    tables = {"data": {"batch_size": 8}, "run": {"epochs": 2}}
    best = train(two_heads(tmp_path / "run", files, model=NEW, other=other, **tables), report=messages.append)
    pbe, meta = (load_model(best, head=head) for head in ("pbe", "meta"))
    assert (pbe.elements, meta.elements) == ((1, 8, 12, 14, 28), (1, 8, 12, 14))
    assert "magmoms" in pbe.program_outputs
    assert "magmoms" not in meta.program_outputs
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert all(line["magmoms"] is not None for line in lines if line["kind"] == "validation")
    assert any(line["magmoms"] is not None for line in lines if line["kind"] == "train")
    (test,) = [line for line in lines if line["kind"] == "test"]
    assert test["forces_by_head"].keys() == {"meta"}
    lowest = min((line for line in lines if line["kind"] == "validation"), key=lambda line: line["loss"])
    for term in ("energy", "forces"):
        assert test[f"{term}_by_head"]["meta"] == pytest.approx(lowest[f"{term}_by_head"]["meta"], rel=1e-5)
    assert messages[-1].startswith("test: meta: energy ")


def test_trainable_weights_with_or_without_a_head(files: dict[str, Path], tmp_path: Path) -> None:
    names = {}
    for pattern in ("readout.*", "meta.*", "magmom.*"):
        config = two_heads(tmp_path, files, model={"trainable": [pattern]})
        state, data, _ = started(config)
        set_coverage(config, state.model, data)
        names[pattern] = {name for name, _ in state.parameters}
    assert {name.split(".")[0] for name in names["readout.*"]} == {"pbe", "meta"}
    assert {name.split(".")[1] for name in names["readout.*"]} == {"readout"}
    assert {name.split(".")[:2][1] for name in names["meta.*"]} == {"readout", "readout_norm", "magmom"}
    assert {name.split(".")[0] for name in names["meta.*"]} == {"meta"}
    assert names["magmom.*"] == {f"{head}.magmom.{kind}" for head in ("pbe", "meta") for kind in ("weight", "bias")}


def test_moments_of_a_head_that_is_not_trained(files: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for pattern in ("*", "meta.*"):
        config = two_heads(tmp_path, files, model={**NEW, "trainable": [pattern]})
        model = initial_model(config)
        set_coverage(config, model, open_data(config, model)[0])
        found[pattern] = [head.coverage.magmoms for head in model.heads.values() if head.coverage]
    assert found == {"*": [True, True], "meta.*": [False, True]}


def test_low_rank_factors_of_each_head(files: dict[str, Path], tmp_path: Path) -> None:
    config = two_heads(
        tmp_path, files, model={"lora_rank": 2, "lora_layers": ["readout.*"], "trainable": ["meta.magmom.*"]}
    )
    state, _, _ = started(config)
    assert {name for name, _ in state.parameters} == {
        *(f"{head}.readout.0.weight.lora_{factor}" for head in ("pbe", "meta") for factor in "ab"),
        *("meta.magmom.weight", "meta.magmom.bias"),
    }


def test_scale_of_each_head(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    tables = {"data": {"scale": "rmsd"}, "run": {"epochs": 1, "dtype": "float32"}}
    best = train(two_heads(tmp_path / "run", files, model={"init_from": "", **KINDS["allscaip"]}, **tables))
    scales = [float(head.energy_scale) for head in load_heads(best).heads.values()]
    assert scales[0] != scales[1]
    config = two_heads(tmp_path, files)
    for scale, name in zip(scales, ("pbe", "meta"), strict=True):
        data = of_head(config, open_data(config, initial_model(config))[0], name)
        forces = torch.cat([data.read("forces", k) for k in range(len(data))])
        assert scale == pytest.approx(float(forces.square().mean().sqrt()))


def test_the_same_structures_in_two_heads_are_no_duplicates(files: dict[str, Path], tmp_path: Path) -> None:
    """Nor do their energies, with another zero, look like those of another unit; within a head they do."""
    same = {"train": str(files["pbe"]), "validation": str(files["plain"])}
    config = two_heads(tmp_path, files, other=same, data={"validation": str(files["meta"])})
    model, data, validation = opened(config)
    assert data_warnings(config, model, data, validation, data.subset(np.arange(0))) == [
        "head meta: 1 of 3 validation structures are also in the training set, the first is number 5: validation "
        "errors will be too low"
    ]


def test_start_from_several_heads(files: dict[str, Path], tmp_path: Path) -> None:
    """Each from the head of its name, or all from one; or a model with one head from one of them."""
    old = Heads.of(random_chgnet(), ["pbe", "meta", "third"])
    for number, head in enumerate(old.heads.values()):
        head.reference_energy.fill_(float(number))
    save_checkpoint(old, tmp_path / "three.ckpt")

    def start(**changes: Any) -> list[float]:
        heads = {"init_from": str(tmp_path / "three.ckpt"), **changes}
        model = initial_model(two_heads(tmp_path, files, model=heads))
        return [float(head.reference_energy[0]) for head in model.heads.values()]

    assert start() == [0.0, 1.0]
    assert start(init_head="third") == [2.0, 2.0]
    one = two_heads(tmp_path, files, other={"head": ""}, model={"init_from": str(tmp_path / "three.ckpt"), "heads": []})
    with pytest.raises(ValueError, match=r"three\.ckpt' has several heads, pbe, meta, third; choose one of them with"):
        initial_model(one)
    single = initial_model(replace(one, model=replace(one.model, init_head="meta")))
    assert isinstance(single, Potential)
    assert single.reference_energy[0] == 1.0
    assert single.card.reference == "fine-tuned from unnamed (meta)"
    with pytest.raises(ValueError, match=r"has no head 'metaa'; did you mean 'meta'"):
        start(init_head="metaa")
    heads, other = ["pbe", "fourth"], {"head": "fourth"}
    config = two_heads(tmp_path, files, other=other, model={"init_from": str(tmp_path / "three.ckpt"), "heads": heads})
    with pytest.raises(ValueError, match=r"heads of '.*three\.ckpt', pbe, meta, third, but fourth is none; set"):
        initial_model(config)


def test_settings_are_written_and_read(files: dict[str, Path], tmp_path: Path) -> None:
    config = two_heads(tmp_path, files, other={"reference_energies": {"Si": -5.0}, "test": str(files["plain"])})
    assert make_config(tomllib.loads(settings_text(config))) == config
    assert config.head_of_set == ("pbe", "meta")


@pytest.mark.parametrize(
    ("model", "head", "message"),
    [
        (
            {"heads": ["pbe", "meta"]},
            "metaa",
            r"'data\.sets\.other\.head' must be one of 'model\.heads', got 'metaa'; did",
        ),
        ({"heads": ["pbe", "meta"]}, "", r"but no set trains 'meta'; add head = \"meta\" to a table \[data\.sets"),
        ({"heads": []}, "meta", r"'data\.sets\.other\.head' must be one of 'model\.heads', got 'meta'; known: none"),
        ({"heads": ["pbe", "pbe"]}, "pbe", r"'model\.heads' must have different names, but 'pbe' is there twice"),
        ({"heads": ["pbe"]}, "pbe", r"'model\.heads' must have two names or more, got only 'pbe'; leave it out"),
        ({"heads": "pbe"}, "pbe", r"'model\.heads' must be a list, got 'pbe'"),
        ({"heads": ["pbe", ""]}, "pbe", r"'model\.heads' must be a list of names, got \['pbe', ''\]"),
        ({"heads": [1, 2]}, "", r"'model\.heads' must be a list of names, got \[1, 2\]"),
        ({"heads": ["pbe", "a.b"]}, "a.b", r"must consist of letters, digits, '_', '\+' and '-', got 'a\.b'"),
        (
            {"heads": ["pbe", "eval"]},
            "eval",
            r"a head must have another name than 'eval', which is a part of the model",
        ),
        ({"heads": ["readout", "atom_embedding"]}, "atom_embedding", r"another name than 'atom_embedding', which is"),
        (
            {"init_from": "", "init_head": "pbe"},
            "meta",
            r"'model\.init_head' is a head of 'model\.init_from', which is",
        ),
        (
            {"init_head": "pbe"},
            "meta",
            r"old\.ckpt' has no head 'pbe': it has only one, without a name; leave the head",
        ),
    ],
)
def test_mistakes(files: dict[str, Path], tmp_path: Path, model: dict[str, Any], head: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initial_model(two_heads(tmp_path, files, model=model, other={"head": head}))


def test_reference_energies_of_a_second_set(files: dict[str, Path], tmp_path: Path) -> None:
    sets = {
        "other": {"train": str(files["meta"]), "head": "meta"},
        "more": {"train": str(files["meta"]), "head": "meta", "reference_energies": {"Si": 1.0}},
    }
    with pytest.raises(ValueError, match=r"more\.reference_energies' must be in the first .*, 'other'; move"):
        two_heads(tmp_path, files, data={"sets": sets})
