"""Uncertainty of energies: last-layer features, symmetries, what is stored, exported programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import systems
import torch
from ase import Atoms
from conftest import RECORD, calibrated, random_allscaip, random_chgnet
from evaluate import graph_of, outputs_of
from export_files import exported, source

from uip.checkpoint import load_model, save_checkpoint
from uip.graph.batch import batch
from uip.models.chgnet import CHGNetConfig
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.models.uncertainty import Calibration
from uip.nn.fused import plain_form
from uip.program.reader import load_program
from uip.program.trace import trace

MODELS = {"chgnet": calibrated(random_chgnet()), "allscaip": calibrated(random_allscaip())}


def features_of(model: Potential, atoms: Atoms) -> torch.Tensor:
    tensors = graph_of(model, atoms).tensors()
    with torch.no_grad():
        features: torch.Tensor = model(**{name: tensors[name] for name in model.inputs}).features
    return features


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_energies_are_linear_in_features(model: Potential, plain: bool) -> None:
    atoms = systems.nio() if model.name == "chgnet" else systems.water()
    if plain:
        with plain_form():
            features = features_of(model, atoms)
    else:
        features = features_of(model, atoms)
    scale = getattr(model, "energy_scale", 1.0)
    row = 1 if model.name == "chgnet" else 0  # of hydrogen's reference: 0 or 1
    reference = model.reference_energy[torch.from_numpy(atoms.numbers) - row]
    expected = model.last_layer(features).squeeze(1) * scale + reference
    torch.testing.assert_close(outputs_of(model, atoms).node_energy, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_vectors_of_atoms_add(model: Potential) -> None:
    frames = [systems.water(), systems.water()]
    frames[1].rattle(0.05, seed=1)
    graphs = [graph_of(model, atoms) for atoms in frames]
    together = evaluate(model, batch(graphs))
    for k, atoms in enumerate(frames):
        features = features_of(model, atoms)
        matrix = model.calibration.projection @ model.calibration.projection.T
        total = features.sum(0)
        assert together.energy_uncertainty[k].item() == pytest.approx((total @ matrix @ total).sqrt().item(), rel=1e-9)
        of_atoms = ((features @ matrix) * features).sum(1).sqrt()
        mine = together.node_uncertainty[k * len(atoms) : (k + 1) * len(atoms)]
        torch.testing.assert_close(mine, of_atoms, rtol=1e-8, atol=1e-12)
    energies = evaluate(model, batch(graphs), forces=False)
    torch.testing.assert_close(energies.energy_uncertainty, together.energy_uncertainty)


def test_symmetries() -> None:
    model, atoms = MODELS["chgnet"], systems.si_rattled()
    sigma = outputs_of(model, atoms)
    turned = atoms.copy()
    turned.rotate(40.0, (1.0, 2.0, 3.0), rotate_cell=True)
    order = [*range(1, len(atoms)), 0]
    permuted = outputs_of(model, atoms[order])
    for other in (outputs_of(model, turned), permuted):
        assert other.energy_uncertainty.item() == pytest.approx(sigma.energy_uncertainty.item(), rel=1e-9)
    torch.testing.assert_close(permuted.node_uncertainty, sigma.node_uncertainty[order])
    double = outputs_of(model, atoms.repeat((2, 1, 1)))
    assert double.energy_uncertainty.item() == pytest.approx(2.0 * sigma.energy_uncertainty.item(), rel=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    model, atoms = MODELS[name], systems.water()
    save_checkpoint(model, tmp_path / "a.ckpt")
    again = load_model(tmp_path / "a.ckpt", dtype="float64")
    assert again.calibration.record == RECORD
    assert again.program_outputs[-1] == "uncertainty_vectors"
    expected = outputs_of(model, atoms).energy_uncertainty.item()
    assert outputs_of(again, atoms).energy_uncertainty.item() == pytest.approx(expected, rel=1e-6)
    assert again.state_dict().keys() == random_state(name)


def random_state(name: str) -> set[str]:
    """The weights of a model without calibration."""
    return (random_chgnet() if name == "chgnet" else random_allscaip()).state_dict().keys()


def test_models_without_calibration_have_no_uncertainty(tmp_path: Path) -> None:
    save_checkpoint(random_chgnet(), tmp_path / "a.ckpt")
    model = load_model(tmp_path / "a.ckpt", dtype="float64")
    assert model.calibration is None
    assert model.program_outputs == ("node_energy", "edge_grad", "magmoms")
    assert outputs_of(model, systems.water()).energy_uncertainty is None


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    model = random_chgnet()
    model.calibration = Calibration(torch.eye(5), RECORD)
    save_checkpoint(model, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"must have a matrix of 16 x 16, .* but has 5 x 5; run 'uip calibrate' again"):
        load_model(tmp_path / "a.ckpt")


@pytest.mark.slow
def test_exported_programs_return_the_vectors() -> None:
    program, model = load_program(exported("calibrated", ".pt")), source("calibrated")
    assert program.outputs == ("node_energy", "edge_grad", "magmoms", "uncertainty_vectors")
    graph = graph_of(model, systems.nio())
    found, expected = program(graph), evaluate(model, graph)
    for name in ("energy_uncertainty", "node_uncertainty", "uncertainty_vectors"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-10)


def test_traced_programs_return_the_vectors() -> None:
    config = CHGNetConfig(num_elements=30, channels=8, num_layers=2, num_radial=5, num_angular=5, num_readout=1)
    model = calibrated(random_chgnet(config))
    graph = graph_of(model, systems.nio())
    expected = evaluate(model, graph)
    tensors = graph.tensors()
    found = dict(zip(model.program_outputs, trace(model)(*(tensors[name] for name in model.inputs)), strict=True))
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-9, atol=1e-10)
