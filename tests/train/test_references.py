"""Reference energies of a run: from a sample of a large data set, once, and kept by its checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import torch
from conftest import random_chgnet

from uip.checkpoint import load_model, save_checkpoint
from uip.data import reference_energies
from uip.data.dataset import Dataset
from uip.data.reference_energies import fitted_sample
from uip.models.readout import evaluate
from uip.train import references
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.loop import train
from uip.train.setup import initial_model, open_data


@pytest.fixture
def fine_tuning(tmp_path: Path) -> TrainConfig:
    """Of a model with other weights than those that made the labels of eight structures."""
    save_checkpoint(random_chgnet(seed=1), tmp_path / "old.ckpt")
    model = {"init_from": str(tmp_path / "old.ckpt"), "architecture": {}, "trainable": ["readout.*"]}
    file = small.write_frames(tmp_path / "data.xyz")
    return small.config(tmp_path / "run", file, model=model, data={"reference_structures": 3}, run={"epochs": 1})


def count_predictions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of structures that are predicted for a fit, from now on."""
    seen: list[int] = []

    def counted(model: torch.nn.Module, graph: object, **options: bool) -> object:
        seen.append(graph.num_graphs)  # type: ignore[attr-defined]
        return evaluate(model, graph, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(references, "evaluate", counted)
    return seen


def test_a_sample_is_predicted_and_only_once(fine_tuning: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    seen = count_predictions(monkeypatch)
    monkeypatch.setattr(reference_energies, "PER_ELEMENT", 1)
    train(fine_tuning)
    assert 3 <= sum(seen) <= 6
    fitted = load_model(Path(fine_tuning.run.folder) / "last.ckpt", dtype="float64").reference_energy
    assert not torch.equal(fitted, load_model(fine_tuning.model.init_from, dtype="float64").reference_energy)
    seen.clear()
    train(fine_tuning, resume=True)
    assert seen == []
    again = load_model(Path(fine_tuning.run.folder) / "last.ckpt", dtype="float64").reference_energy
    assert torch.equal(again, fitted)


def test_ranks_divide_the_sample(fine_tuning: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_predictions(monkeypatch)
    model = initial_model(fine_tuning)
    data, _ = open_data(fine_tuning, model)
    monkeypatch.setattr(Ranks, "sum", lambda self, x: x)
    whole = references.predicted_energies(model, data, Ranks())
    parts = [references.predicted_energies(model, data, Ranks(rank, 3)) for rank in range(3)]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)
    assert sum(seen) == 2 * len(data)
    assert (np.array(parts) != 0).sum() == len(data)


def test_a_sample_has_the_rare_elements(fine_tuning: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    data: Dataset = open_data(fine_tuning, initial_model(fine_tuning))[0]
    hydrogen = data.contains(1)
    assert hydrogen.tolist() == [False, False, True, False] * 2
    monkeypatch.setattr(reference_energies, "PER_ELEMENT", 2)
    for limit in range(1, 8):
        sample = fitted_sample(data, limit, [1])
        assert limit <= len(sample) <= limit + 2
        assert hydrogen[sample].sum() == 2
        assert np.array_equal(sample, fitted_sample(data, limit, [1]))
    assert np.array_equal(fitted_sample(data, 8, [1]), np.arange(8))
