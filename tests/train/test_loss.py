"""The loss and its gradient: against finite differences, with missing labels, however a step is divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import torch
from ase.io import write
from conftest import random_allscaip

from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.data.samples import Sample
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.models.readout import evaluate
from uip.train.loss import LOSS_TERMS, LossConfig, count_labels, penalties, residuals, scales


@pytest.fixture(scope="module")
def model() -> CHGNet:
    torch.manual_seed(3)
    return CHGNet(CHGNetConfig(**small.ARCHITECTURE)).double()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, model: CHGNet) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    settings = GraphSettings(model.cutoff, model.bond_cutoff, model.soft, model.elements)
    return Dataset([open_store(small.write_frames(folder / "four.xyz", 4), settings, folder)])


def loss_of(model: CHGNet, samples: list[Sample], config: LossConfig) -> torch.Tensor:
    counts = sum((count_labels(sample.targets) for sample in samples), torch.zeros(4).double())
    scale = scales(config.weights(0.0), counts)
    total = torch.zeros(()).double()
    for sample in samples:
        outputs = evaluate(model, sample.graph, training=True)
        total = total + (scale * penalties(residuals(outputs, sample.targets, sample.graph), config)).sum()
    return total


@pytest.mark.parametrize("kind", ["huber", "mse"])
def test_second_derivatives(model: CHGNet, data: Dataset, kind: str) -> None:
    """The gradient of a loss of energy, forces, stress and magmoms is its slope, along each group of parameters."""
    config = LossConfig(kind=kind, stress=1.0, magmoms=1.0)
    samples = [data.batch(range(4))]
    model.zero_grad()
    loss_of(model, samples, config).backward()
    generator = torch.Generator().manual_seed(0)
    for name, group in model.named_children():
        parameters = [p for p in group.parameters() if p.grad is not None]
        directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
        values = []
        for step in (1e-5, -2e-5, 1e-5):  # there, beyond, and back
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(d, alpha=step)
            values.append(float(loss_of(model, samples, config).detach()))
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-8), name
        assert slope != 0.0, name


def test_the_division_of_a_step_does_not_matter(model: CHGNet, data: Dataset) -> None:
    whole, parts = [data.batch(range(4))], [data.batch([0, 3]), data.batch([2]), data.batch([1])]
    gradients = []
    for samples in (whole, parts):
        model.zero_grad()
        value = loss_of(model, samples, LossConfig())
        value.backward()
        gradients.append([float(value.detach()), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-12)
    for one, other in zip(gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_labels_that_are_missing_are_not_counted(data: Dataset) -> None:
    """Of four structures the molecule has no stress, and one has magmoms."""
    sample = data.batch(range(4))
    atoms = data.counts("N")
    expected = [4, 3 * atoms.sum(), 27, atoms[3]]
    assert count_labels(sample.targets).tolist() == expected


def test_residuals_are_in_the_units_of_the_loss(model: CHGNet, data: Dataset) -> None:
    sample = data.batch(range(4))
    outputs = evaluate(model, sample.graph)
    found = residuals(outputs, sample.targets, sample.graph)
    per_atom = (outputs.energy - sample.targets.energy) / torch.from_numpy(data.counts("N"))
    torch.testing.assert_close(found["energy"], per_atom)
    solids = torch.tensor([0, 1, 3])
    stress = (outputs.stress - sample.targets.stress)[solids].flatten() * 160.21766208
    torch.testing.assert_close(found["stress"], stress)


def test_large_energies_keep_their_digits(tmp_path: Path) -> None:
    """All-electron energies: from the file to the residual of a model whose energies are float64."""
    atoms = small.frames(3)[2]
    atoms.calc.results["energy"] = -204_100.0123
    write(tmp_path / "heavy.xyz", atoms)
    model = random_allscaip().float()
    model.reference_energy.zero_()
    model.reference_energy[8] = -204_100.0
    settings = GraphSettings(model.cutoff, model.bond_cutoff, model.soft, model.elements)
    sample = Dataset([open_store(tmp_path / "heavy.xyz", settings, tmp_path)]).batch([0]).to(dtype=torch.float32)
    assert sample.targets.energy.tolist() == [-204_100.0123]
    outputs = evaluate(model, sample.graph)
    found = 3 * float(residuals(outputs, sample.targets, sample.graph)["energy"])
    model.reference_energy.zero_()
    assert found == pytest.approx(float(evaluate(model, sample.graph).energy) + 0.0123, abs=1e-6)


def test_penalties() -> None:
    parts = {"energy": torch.tensor([0.05, -0.3])}
    for kind, value in (("huber", 0.5 * 0.05**2 + 0.1 * (0.3 - 0.05)), ("mae", 0.35), ("mse", 0.0925)):
        assert float(penalties(parts, LossConfig(kind=kind))[0]) == pytest.approx(value)


def test_weights_change_from_start_to_end() -> None:
    config = LossConfig(energy=1.0, final={"energy": 11.0})
    assert [config.weights(progress)["energy"] for progress in (0.0, 0.5, 1.0)] == [1.0, 6.0, 11.0]
    assert config.weights(0.5)["forces"] == 1.0
    assert tuple(config.weights(0.0)) == LOSS_TERMS
    assert not LossConfig(forces=0.0, stress=0.0).needs_forces
    assert LossConfig(forces=0.0, stress=0.0, final={"forces": 1.0}).needs_forces


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "huger"}, "'loss.kind' must be one of huber, mae, mse, got 'huger'"),
        ({"delta": 0.0}, "'loss.delta' must be positive"),
        ({"final": {"enrgy": 1.0}}, r"unknown key 'loss\.final\.enrgy'; did you mean 'energy'"),
        ({"energy": -1.0}, "loss weights must not be negative"),
        ({"energy": 0.0, "forces": 0.0, "stress": 0.0, "magmoms": 0.0}, "nor all zero"),
    ],
)
def test_weights_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**values)


def test_numpy_is_not_changed_by_a_batch(data: Dataset) -> None:
    before = np.array(data.stores[0].arrays["positions"])
    data.batch(range(4)).graph.positions.add_(1.0)
    np.testing.assert_array_equal(before, data.stores[0].arrays["positions"])
