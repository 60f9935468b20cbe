"""Direct readout: forces that rotate, balance and end smoothly; trained, switched to gradient, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import systems
import torch
from ase import Atoms
from conftest import SMALL, random_chgnet
from evaluate import outputs_of

from uip import Calculator
from uip.checkpoint import load_model
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.train.loop import train
from uip.train.metrics import read_log


@pytest.fixture(scope="module")
def model() -> CHGNet:
    return random_chgnet(CHGNetConfig(**{**SMALL.__dict__, "readout": "direct"}))


def predicted(model: CHGNet, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, float]:
    atoms = atoms.copy()
    atoms.calc = Calculator(model)
    return atoms.get_forces(), atoms.get_stress(voigt=False), atoms.get_potential_energy()


def rotation() -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


@pytest.mark.parametrize("make", systems.PERIODIC.values(), ids=systems.PERIODIC)
def test_direct_forces_rotate_with_the_structure(model: CHGNet, make: object) -> None:
    atoms, turn = make(), rotation()
    forces, stress, energy = predicted(model, atoms)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T, scale_atoms=False)
    turned.positions = atoms.positions @ turn.T
    again = predicted(model, turned)
    np.testing.assert_allclose(again[0], forces @ turn.T, atol=1e-6)
    np.testing.assert_allclose(again[1], turn @ stress @ turn.T, atol=1e-6)
    assert again[2] == pytest.approx(energy, abs=1e-6)
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(stress, stress.T, atol=1e-12)


def test_direct_forces_do_not_jump_at_the_cutoff(model: CHGNet) -> None:
    def force(distance: float) -> float:
        return float(predicted_pair(model, distance)[0, 0])

    assert abs(force(6.0 - 1e-4) - force(6.0 + 1e-4)) < 1e-8
    assert abs(force(3.0 - 1e-5) - force(3.0 + 1e-5)) < 1e-4
    assert abs(force(2.0)) > 1e-3


def predicted_pair(model: CHGNet, distance: float) -> np.ndarray:
    atoms = Atoms("SiO", [[0, 0, 0], [distance, 0, 0]])
    atoms.calc = Calculator(model)
    return atoms.get_forces()


def test_direct_forces_are_not_the_slope_of_the_energy(model: CHGNet) -> None:
    """Which is why `conservative` is false."""
    atoms = systems.si_rattled()
    forces = predicted(model, atoms)[0]
    ends = []
    for step in (1e-4, -1e-4):
        moved = atoms.copy()
        moved.positions[0, 0] += step
        ends.append(predicted(model, moved)[2])
    assert abs(forces[0, 0] + (ends[0] - ends[1]) / 2e-4) > 1e-3
    assert not model.conservative
    assert random_chgnet().conservative


def test_unknown_readout() -> None:
    with pytest.raises(ValueError, match="`readout` must be 'gradient' or 'direct', got 'both'"):
        CHGNetConfig(readout="both")


@pytest.mark.slow
def test_direct_training_then_gradient_fine_tuning(tmp_path: Path) -> None:
    data = small.write_frames(tmp_path / "four.xyz", 4)
    architecture = {**small.ARCHITECTURE, "readout": "direct"}
    run, optim = {"epochs": 80}, {"learning_rate": 2e-2, "ema": 0.0}
    best = train(small.config(tmp_path / "direct", data, model={"architecture": architecture}, optim=optim, run=run))
    lines = [line for line in read_log(tmp_path / "direct" / "log.jsonl") if line["kind"] == "validation"]
    assert lines[-1]["forces"] < 0.8 * lines[0]["forces"]
    direct = load_model(best, dtype="float64")
    assert not direct.conservative
    switch = {"init_from": str(best), "architecture": {"readout": "gradient"}}
    keep, still = {"reference": "keep"}, {"learning_rate": 1e-12, "ema": 0.0}
    again = train(small.config(tmp_path / "gradient", data, model=switch, data=keep, optim=still, run={"epochs": 1}))
    gradient = load_model(again, dtype="float64")
    assert gradient.conservative
    assert "fine-tuned from direct" in gradient.card.reference
    # the same energies: the weights came along; other forces: they are derivatives now
    one, other = (outputs_of(model, systems.si_rattled()) for model in (direct, gradient))
    torch.testing.assert_close(one.energy, other.energy, rtol=1e-6, atol=1e-6)


def test_fine_tuning_changes_trainable_weights_and_refits_references(tmp_path: Path) -> None:
    data = small.write_frames(tmp_path / "four.xyz", 4)
    best = train(small.config(tmp_path / "first", data, run={"epochs": 1}))
    frames_moved = {"init_from": str(best), "trainable": ["readout.*"], "architecture": {}}
    tuned = train(small.config(tmp_path / "second", data, model=frames_moved, run={"epochs": 2}))
    one, other = (load_model(path, dtype="float64").state_dict() for path in (best, tuned))
    changed = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
    assert changed <= {"readout", "reference_energy"}
    assert "readout" in changed
    wider = small.config(tmp_path / "third", data, model={"init_from": str(best), "architecture": {"channels": 12}})
    with pytest.raises(ValueError, match=r"'model\.architecture' must fit the weights of .* size mismatch for"):
        train(wider)


def test_published_weights_are_fine_tuned_to_another_scale_of_energies(tmp_path: Path) -> None:
    """Shifted labels are met by the references alone: before the first step the energies are right."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for k in range(3):
        atoms = systems.si_rattled()
        atoms.rattle(0.02, seed=k)
        energy = predicted(load_model("chgnet-0.3.0"), atoms)[2]
        atoms.calc = SinglePointCalculator(atoms, energy=energy + 0.7 * len(atoms))
        frames.append(atoms)
    write(tmp_path / "shifted.xyz", frames)
    loss, optim = {"forces": 0.0, "stress": 0.0}, {"learning_rate": 1e-9, "ema": 0.0}
    run = {"epochs": 1, "dtype": "float32"}
    model = {"init_from": "chgnet-0.3.0", "architecture": {}}
    train(small.config(tmp_path / "run", tmp_path / "shifted.xyz", model=model, loss=loss, optim=optim, run=run))
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["energy"] < 0.1


def test_record_of_an_exported_direct_model(model: CHGNet, tmp_path: Path) -> None:
    from uip.program.reader import load_program
    from uip.program.writer import export_model

    export_model(model, tmp_path / "direct.pt", dtype="float64")
    program = load_program(tmp_path / "direct.pt")
    assert program.metadata["conservative"] is False
    atoms = systems.nio()
    atoms.calc = Calculator(tmp_path / "direct.pt")
    np.testing.assert_allclose(atoms.get_forces(), predicted(model, atoms)[0], atol=1e-9)
    assert program.card.name == model.card.name
    export_model(random_chgnet(), tmp_path / "gradient.pt", dtype="float64")
    assert load_program(tmp_path / "gradient.pt").metadata["conservative"] is True
