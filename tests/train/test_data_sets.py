"""Several data sets in one run: weights, zeros of energy, samples of a set, messages."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import small
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import random_chgnet

from uip.checkpoint import read_training, save_checkpoint
from uip.data.sampler import cost_model
from uip.models.readout import evaluate
from uip.train.config import TrainConfig, changes, make_config, read_config
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum
from uip.train.loop import train
from uip.train.loss import count_labels, penalties, residuals, scales
from uip.train.metrics import read_log
from uip.train.record import write_record
from uip.train.references import set_references
from uip.train.setup import initial_model, open_data
from uip.train.state import initial_state
from uip.train.step import Plan, add_gradients
from uip.train.template import settings_text
from uip.train.validation import format_errors, validate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OFFSETS = {1: 0.7, 8: -2.5, 14: 3.0, 28: 1.5}
"""eV: another zero of energy of the elements of `small.frames`."""


def write_set(path: Path, numbers: range, scale: float = 0.0) -> Path:
    """Some of `small.frames`, their energies moved by `scale` times `OFFSETS`."""
    frames = [small.frames(numbers.stop)[k] for k in numbers]
    for atoms in frames:
        labels = dict(atoms.calc.results)
        labels["energy"] += scale * sum(OFFSETS.get(z, 0.0) for z in atoms.numbers)
        atoms.calc = SinglePointCalculator(atoms, **labels)
    ase.io.write(path, frames)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """new: two structures without Ni, with another zero; old: eight, with the zero of the model old.ckpt."""
    folder = tmp_path_factory.mktemp("sets")
    save_checkpoint(random_chgnet(), folder / "old.ckpt")
    new, old = write_set(folder / "new.xyz", range(1, 3), 1.0), write_set(folder / "old.xyz", range(3, 11))
    return {"new": new, "old": old, "model": folder / "old.ckpt"}


def two_sets(folder: Path, files: dict[str, Path], **tables: dict[str, Any]) -> TrainConfig:
    """Fine-tune on "new" with a replay of "old"."""
    sets = {"old": {"train": str(files["old"]), "validation": str(files["old"]), **tables.pop("old", {})}}
    tables["data"] = {"sets": sets, "batch_size": 10, **tables.get("data", {})}
    tables["model"] = {"init_from": str(files["model"]), "architecture": {}, **tables.get("model", {})}
    return small.config(folder, files["new"], **tables)


def opened(config: TrainConfig) -> tuple[Any, Any, Any, Any]:
    """Model with reference energies; training and validation data with moved labels; the shifts."""
    model = initial_model(config)
    data, validation = open_data(config, model)
    shifts = set_references(config, model, data, Ranks())
    return model, data.shifted(shifts), validation.shifted(shifts), shifts


def test_replayed_labels_follow_the_zero_of_the_new_ones(files: dict[str, Path], tmp_path: Path) -> None:
    """The model had no error on either set, but for the zero of the new one: now it has none on both."""
    model, data, _, shifts = opened(two_sets(tmp_path, files, old={"reference": "keep"}))
    raw = data.shifted([torch.zeros_like(shift) for shift in shifts])
    moved = [data[k].targets.energy - raw[k].targets.energy for k in range(len(data))]
    assert [bool(change.abs() > 0.1) for change in moved] == [False] * 2 + [True] * 8
    for k in range(len(data)):
        sample = data[k]
        assert sample.sets.tolist() == [int(k >= 2)]
        predicted = evaluate(model, sample.graph.to(dtype=torch.float64)).energy
        assert abs(float(predicted - sample.targets.energy)) < 1e-6 * sample.graph.num_atoms
        assert data.read("energy", k).item() == sample.targets.energy.item()


def test_a_set_with_another_zero_is_fitted(files: dict[str, Path], tmp_path: Path) -> None:
    """The main set keeps the zero of the model, the other one, which has an element more, is moved to it."""
    other = write_set(tmp_path / "other.xyz", range(8), 2.0)
    config = two_sets(tmp_path, {**files, "new": files["old"], "old": other}, data={"reference": "keep"})
    model, data, _, shifts = opened(config)
    before = initial_model(config).reference_energy
    assert torch.equal(model.reference_energy, before)
    assert shifts[0].abs().max() == 0.0
    for k in range(len(data)):
        predicted = evaluate(model, data[k].graph.to(dtype=torch.float64)).energy
        assert abs(float(predicted - data[k].targets.energy)) < 1e-5 * data[k].graph.num_atoms


def test_new_elements_get_the_reference_of_the_set_that_has_them(files: dict[str, Path], tmp_path: Path) -> None:
    """A model from random weights: labels of both sets have no mean beyond the references."""
    config = two_sets(tmp_path, files, model={"init_from": "", "architecture": small.ARCHITECTURE})
    model, _, _, shifts = opened(config)
    assert model.reference_energy[27].abs() > 1e-3  # Ni is in "old" alone
    assert shifts[1][27] == 0.0
    assert shifts[1][[0, 7, 13]].abs().max() > 0.1


def test_weights_multiply_labels_of_a_set(files: dict[str, Path], tmp_path: Path) -> None:
    """The gradient is that of sum_s weight_s sum penalty / sum_s weight_s count, written out set by set."""
    config = two_sets(tmp_path, files, old={"weight": 0.25})
    model, data, _, _ = opened(config)
    state = initial_state(config, model.double())
    plan = Plan.of(config, data, cost_model(model.name)(data))
    add_gradients(
        config, state, [data.batch(range(len(data)))], plan, GradientSum([p for _, p in state.parameters], Ranks())
    )
    found = [p.grad for _, p in state.parameters]
    parts = [data.batch(range(2)), data.batch(range(2, len(data)))]
    weights = (1.0, 0.25)
    counts = sum(w * count_labels(part.targets) for w, part in zip(weights, parts, strict=True))
    assert plan.labels.tolist() == pytest.approx(counts.tolist())
    loss = torch.zeros((), dtype=torch.float64)
    for weight, part in zip(weights, parts, strict=True):
        errors = residuals(evaluate(model, part.graph, training=True), part.targets, part.graph)
        loss = loss + weight * (scales(config.loss.weights(0.0), counts) * penalties(errors, config.loss)).sum()
    expected = torch.autograd.grad(loss, [p for _, p in state.parameters], allow_unused=True)
    for gradient, other in zip(found, expected, strict=True):
        assert (gradient is None) == (other is None)
        assert gradient is None or torch.allclose(gradient, other, rtol=1e-9, atol=1e-12)


def test_errors_of_each_set(files: dict[str, Path], tmp_path: Path) -> None:
    config = two_sets(tmp_path, files, old={"weight": 0.25}, loss={"forces": 0.0})
    model, _, data, _ = opened(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    found = validate(config, model.double(), data, Ranks())
    alone = [validate(config, model, data.subset(part), Ranks()) for part in (np.arange(2), np.arange(2, 10))]
    for term in ("energy", "forces", "magmoms"):
        by_set = found[f"{term}_by_set"]
        assert by_set == pytest.approx({n: a[term] for n, a in zip(("main", "old"), alone, strict=True) if a[term]})
    sizes = np.array([2, 8])
    errors = np.array([found["energy_by_set"][name] for name in ("main", "old")])
    assert found["energy"] == pytest.approx((sizes * errors).sum() / 10)
    text = format_errors(found)
    assert text.startswith("main: energy ")
    assert "; old: energy " in text


def test_a_run_resumes_with_its_shifts(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    for name, epochs in (("whole", (2,)), ("cut", (1, 2))):
        for number in epochs:
            run, optim = {"epochs": number}, {"schedule": "constant"}
            config = two_sets(tmp_path / name, files, run=run, optim=optim, data={"batch_size": 4})
            train(config, resume=number == epochs[-1] and len(epochs) > 1)
    whole, cut = (read_training(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    assert len(whole["shifts"]) == 2
    assert whole["shifts"][1].abs().max() > 0.1
    assert all(torch.equal(a, b) for a, b in zip(whole["shifts"], cut["shifts"], strict=True))
    assert all(torch.equal(whole["state"][name], cut["state"][name]) for name in whole["state"])
    first, second = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "cut")
    )
    assert first == [line for line in second if line["kind"] != "settings"]
    old = config.data.sets["old"]
    with pytest.raises(ValueError, match=r"but data\.sets\.old\.weight changed since"):
        train(replace(config, data=replace(config.data, sets={"old": replace(old, weight=2.0)})), resume=True)


def test_a_sample_of_a_set(files: dict[str, Path], tmp_path: Path) -> None:
    """Drawn once; its validation part is taken from the sample."""
    config = two_sets(tmp_path, files, old={"structures": 4, "validation": []}, data={"validation_fraction": 0.25})
    data, validation = open_data(config, initial_model(config))
    assert len(data.of_set(1)) == 3
    assert len(validation.of_set(1)) == 1
    assert not set(data.of_set(1).chosen) & set(validation.of_set(1).chosen)
    Path(config.run.folder).mkdir(exist_ok=True)
    write_record(config, validation)
    split = json.loads((tmp_path / "split.json").read_text())
    assert split["validation_files"] == [str(files["new"])]
    (item,) = split["sets"]["old"]["files"]
    assert item == {"file": str(files["old"]), "structures": 8, "validation": validation.of_set(1).chosen.tolist()}
    again = read_config(tmp_path / "settings.toml")
    assert changes(again, config.values()) == {}


def test_settings_of_sets_are_written_and_read(files: dict[str, Path], tmp_path: Path) -> None:
    config = two_sets(tmp_path, files, old={"weight": 0.5, "reference": "keep", "stress_unit": "GPa"})
    assert make_config(tomllib.loads(settings_text(config))) == config
    file = tmp_path / "run.toml"
    file.write_text('[data]\ntrain = "a.xyz"\n[data.sets.old]\ntrain = "b.xyz"\n')
    found = read_config(file, ["data.sets.old.weight=0.5"]).data.sets["old"]
    assert found.train == (str(tmp_path / "b.xyz"),)
    assert found.weight == 0.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"old": {"train": "a", "weights": 2.0}}, r"unknown key 'data\.sets\.old\.weights'; did you mean 'weight'"),
        (
            {"old": {"train": "a", "weight": 0.0}},
            r"'data\.sets\.old\.weight' must be positive and finite, got 0\.0",
        ),
        ({"old": {"train": "a", "structures": -1}}, r"'data\.sets\.old\.structures' must not be negative, got -1"),
        (
            {"old": {"train": "a", "reference": "no"}},
            r"'data\.sets\.old\.reference' must be one of fit, keep, got 'no'",
        ),
        ({"old": {"train": "a", "stress_unit": "bar"}}, r"'data\.sets\.old\.stress_unit' must be one of .*, got 'bar'"),
        ({"old": {"train": "a", "weight": float("inf")}}, r"'data\.sets\.old\.weight' must be positive and finite"),
        ({"old": {"train": 3}}, r"'train' of a data set must be a file or a list of files, got 3"),
        ({"old": {"train": "a", "reference": "keep"}}, r"is the zero of 'model\.init_from', which is empty"),
        ({"old": {"weight": 2.0}}, r"'data\.sets\.old\.train' must name at least one file, got none"),
        ({"main": {"train": "a"}}, r"'data\.sets\.main' must have another name: 'main' is the set of 'data\.train'"),
        ({"old": "a.xyz"}, r"'data\.sets\.old' must be a table with 'train', its files, got 'a\.xyz'"),
        ("a.xyz", r"'data\.sets' must consist of tables \[data\.sets\.NAME\], got 'a\.xyz'"),
    ],
)
def test_mistakes(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config({"data": {"train": "a.xyz", "sets": table}})


def test_an_element_that_the_model_does_not_know(files: dict[str, Path], tmp_path: Path) -> None:
    frames = ase.io.read(files["old"], ":")
    frames[1].numbers[0] = 79
    ase.io.write(tmp_path / "gold.xyz", frames)
    config = two_sets(tmp_path, {**files, "old": tmp_path / "gold.xyz"})
    with pytest.raises(ValueError, match=r"gold\.xyz, structure 1: the model must support every element, got Au"):
        train(config)


def test_keep_needs_reference_energies_of_the_first_model(files: dict[str, Path], tmp_path: Path) -> None:
    model = random_chgnet()
    model.reference_energy[27] = 0.0
    save_checkpoint(model, tmp_path / "no_nickel.ckpt")
    init = {"init_from": str(tmp_path / "no_nickel.ckpt")}
    with pytest.raises(ValueError, match=r"it has none of Ni; use 'fit'"):
        opened(two_sets(tmp_path, files, old={"reference": "keep"}, model=init))


def test_structures_that_move_to_another_set_are_other_data(files: dict[str, Path], tmp_path: Path) -> None:
    """The same files in the same order."""
    digests = []
    for main, old in ((["new", "old"], ["new"]), (["new"], ["old", "new"])):
        data = {"train": [str(files[name]) for name in main]}
        config = two_sets(tmp_path, files, old={"train": [str(files[name]) for name in old]}, data=data)
        digests.append(open_data(config, initial_model(config))[0].digest())
    assert digests[0] != digests[1]
