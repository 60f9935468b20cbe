"""What every model must satisfy, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import systems
import torch
from ase import Atoms
from evaluate import energy_of, graph_of, outputs_of
from scipy.spatial.transform import Rotation

from uip.graph.batch import batch
from uip.models.chgnet import CHGNet
from uip.models.readout import evaluate
from uip.nn.basis import AngularBasis

EXACT = 1e-10


def central_difference(energy: Callable[[float], float], step: float = 1e-4) -> float:
    """Fourth-order first derivative at 0."""
    near, far = energy(step) - energy(-step), energy(2 * step) - energy(-2 * step)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("name", ["si_rattled", "nio", "tiny_cell", "skewed_cell", "slab", "water", "wire"])
def test_forces_are_minus_the_gradient(model: CHGNet, name: str) -> None:
    atoms = systems.ALL[name]()
    forces = outputs_of(model, atoms).forces.numpy()

    def displaced(atom: int, axis: int) -> Callable[[float], float]:
        def energy(step: float) -> float:
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            return energy_of(model, moved)

        return energy

    for atom, axis in [(0, 0), (0, 2), (1, 1), (len(atoms) - 1, 0)]:
        numeric = -central_difference(displaced(atom, axis))
        assert forces[atom, axis] == pytest.approx(numeric, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", sorted(systems.PERIODIC))
@pytest.mark.parametrize(("i", "j"), [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)])
def test_stress_is_the_strain_derivative(model: CHGNet, name: str, i: int, j: int) -> None:
    atoms = systems.ALL[name]()
    outputs = outputs_of(model, atoms)

    def strained(strain: float) -> float:
        eps = np.zeros((3, 3))
        eps[i, j] += strain / 2
        eps[j, i] += strain / 2
        changed = atoms.copy()
        changed.set_cell(atoms.cell.array @ (np.eye(3) + eps), scale_atoms=False)
        changed.positions = atoms.positions @ (np.eye(3) + eps)
        return energy_of(model, changed)

    numeric = central_difference(strained) / atoms.get_volume()
    largest = outputs.stress.abs().max().item()
    assert outputs.stress[0, i, j].item() == pytest.approx(numeric, rel=1e-6, abs=1e-6 * largest)
    assert outputs.stress[0, j, i].item() == pytest.approx(outputs.stress[0, i, j].item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", sorted(systems.ALL))
def test_forces_sum_to_zero(model: CHGNet, name: str) -> None:
    outputs = outputs_of(model, systems.ALL[name]())
    assert outputs.forces.sum(0).abs().max() < EXACT


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for key, value in a.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(b[key], value, rtol=0, atol=EXACT * scale, err_msg=key)


def numbers(model: CHGNet, atoms: Atoms) -> dict[str, np.ndarray]:
    outputs = outputs_of(model, atoms)
    return {name: getattr(outputs, name).numpy() for name in ("energy", "forces", "virial", "magmoms")}


@pytest.mark.parametrize("name", sorted(systems.ALL))
def test_translation(model: CHGNet, name: str) -> None:
    atoms = systems.ALL[name]()
    moved = atoms.copy()
    moved.positions += [0.7, -3.1, 11.0]
    assert_same(numbers(model, atoms), numbers(model, moved))


@pytest.mark.parametrize("name", sorted(systems.ALL))
def test_rotation(model: CHGNet, name: str) -> None:
    atoms = systems.ALL[name]()
    rotation = Rotation.from_rotvec([0.4, -1.1, 0.8]).as_matrix()
    rotated = atoms.copy()
    rotated.set_cell(atoms.cell.array @ rotation.T)
    rotated.positions = atoms.positions @ rotation.T
    expected = numbers(model, atoms)
    expected["forces"] = expected["forces"] @ rotation.T
    expected["virial"] = rotation @ expected["virial"] @ rotation.T
    assert_same(expected, numbers(model, rotated))


@pytest.mark.parametrize("name", sorted(systems.ALL))
def test_order_of_atoms(model: CHGNet, name: str) -> None:
    atoms = systems.ALL[name]()
    order = np.random.default_rng(0).permutation(len(atoms))
    expected = numbers(model, atoms)
    expected["forces"], expected["magmoms"] = expected["forces"][order], expected["magmoms"][order]
    assert_same(expected, numbers(model, atoms[order]))


@pytest.mark.parametrize("name", [*sorted(systems.PERIODIC), "slab", "wire"])
def test_atoms_outside_the_box(model: CHGNet, name: str) -> None:
    atoms = systems.ALL[name]()
    wrapped = atoms.copy()
    images = np.random.default_rng(1).integers(-3, 4, (len(atoms), 3)) * atoms.pbc
    wrapped.positions += images @ atoms.cell.array
    assert_same(numbers(model, atoms), numbers(model, wrapped))


@pytest.mark.parametrize("name", sorted(systems.PERIODIC))
def test_supercell_is_additive(model: CHGNet, name: str) -> None:
    atoms = systems.ALL[name]()
    one, four = numbers(model, atoms), numbers(model, atoms.repeat((2, 1, 2)))
    one["energy"], one["virial"] = 4 * one["energy"], 4 * one["virial"]
    one["forces"], one["magmoms"] = np.tile(one["forces"], (4, 1)), np.tile(one["magmoms"], 4)
    assert_same(one, four)


def test_far_systems_add(model: CHGNet) -> None:
    a, b = systems.water(), systems.far_pair()
    b.positions += 50.0
    together = numbers(model, a + b)
    apart = [numbers(model, atoms) for atoms in (a, b)]
    if model.config.output_bias:
        # version 0.2.0 is not local: an angle anywhere changes all edges of the structure
        assert abs(together["energy"] - apart[0]["energy"] - apart[1]["energy"]).max() > 1e-6
        assert not model.parallel
        return
    assert model.parallel
    np.testing.assert_allclose(together["energy"], apart[0]["energy"] + apart[1]["energy"], atol=EXACT * 10)
    np.testing.assert_allclose(together["forces"], np.concatenate([x["forces"] for x in apart]), atol=EXACT * 10)


def test_batch_equals_one_by_one(model: CHGNet) -> None:
    graphs = [graph_of(model, make()) for make in systems.ALL.values()]
    together = evaluate(model, batch(graphs))
    start = 0
    for k, graph in enumerate(graphs):
        alone = evaluate(model, graph)
        atoms = slice(start, start + graph.num_atoms)
        start += graph.num_atoms
        expected = {"energy": alone.energy, "forces": alone.forces, "virial": alone.virial, "magmoms": alone.magmoms}
        got = {
            "energy": together.energy[k : k + 1],
            "forces": together.forces[atoms],
            "virial": together.virial[k : k + 1],
            "magmoms": together.magmoms[atoms],
        }
        assert_same({n: v.numpy() for n, v in expected.items()}, {n: v.numpy() for n, v in got.items()})


@pytest.mark.parametrize(("base", "where"), [("edge", 6.0), ("bond", 3.0)])
def test_nothing_jumps_at_a_cutoff(model: CHGNet, base: str, where: float) -> None:
    """An atom crossing the cutoff, seen by an atom that has angles anyway."""
    cluster = Atoms("Si3O", [[0, 0, 0], [2.2, 0, 0], [-0.7, 2.1, 0], [0, 0, where]])
    assert where in (model.cutoff, model.bond_cutoff), base

    def at(distance: float) -> dict[str, np.ndarray]:
        atoms = cluster.copy()
        atoms.positions[3, 2] = distance
        return numbers(model, atoms)

    below, above = at(where - 1e-6), at(where + 1e-6)
    step = at(where + 3e-6)
    assert graph_of(model, cluster).num_edges > 0
    for name in ("energy", "forces"):
        jump = np.abs(above[name] - below[name]).max()
        slope = np.abs(step[name] - above[name]).max()
        assert jump < 2 * slope + 1e-9, f"{name} jumps by {jump} at {where} A"


def test_the_cutoff_test_has_power(published: CHGNet) -> None:
    """A model that ignores the envelope does jump."""

    class Step(torch.nn.Module):
        def forward(self, distance: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(distance).unsqueeze(1).expand(-1, published.config.num_radial)

    import copy

    broken = copy.deepcopy(published)
    broken.edge_basis = Step()
    with pytest.raises(AssertionError, match="jumps"):
        test_nothing_jumps_at_a_cutoff(broken, "edge", 6.0)


def test_angles_carry_gradient(published: CHGNet) -> None:
    """A detached angle must be noticed by the force test: it is a large part of the force."""
    import copy

    broken = copy.deepcopy(published)
    broken.angle_basis.angle = lambda cosine: AngularBasis.angle(cosine.detach())  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        test_forces_are_minus_the_gradient(broken, "si_rattled")


def test_lone_atom_has_the_energy_of_its_features_alone(model: CHGNet) -> None:
    outputs = outputs_of(model, systems.lone_atom())
    assert torch.isfinite(outputs.energy).all()
    assert outputs.forces.abs().max() == 0
    assert outputs.virial.abs().max() == 0
    assert torch.isnan(outputs.stress).all()
    far = Atoms("Fe2", [[0, 0, 0], [0, 0, 6.5]])
    assert energy_of(model, far) == pytest.approx(2 * outputs.energy.item(), abs=EXACT)


def test_empty_angle_list(model: CHGNet) -> None:
    graph = graph_of(model, systems.far_pair())
    assert graph.num_edges == 2
    assert graph.num_angles == 0
    assert torch.isfinite(evaluate(model, graph).forces).all()


def test_inputs_are_not_changed(model: CHGNet) -> None:
    graph = graph_of(model, systems.nio())
    before = {name: value.clone() for name, value in graph.tensors().items()}
    evaluate(model, graph)
    for name, value in graph.tensors().items():
        assert torch.equal(value, before[name]), name
        assert not value.requires_grad, name


def test_float32_agrees_with_float64(published: CHGNet) -> None:
    """With the exact envelope, float32 is right to a few 1e-6 eV/A also for bonds that end near the cutoff."""
    from uip.checkpoint import load_model

    exact = CHGNet(dataclasses.replace(published.config, published_rounding=False))
    exact.load_state_dict(load_model("chgnet-0.3.0").state_dict())
    atoms = systems.tiny_cell()
    single, double = outputs_of(exact, atoms), outputs_of(published, atoms)
    assert (single.forces - double.forces).abs().max() < 5e-6
    assert (single.energy - double.energy).abs().max() / len(atoms) < 1e-6


def test_training_gradient_matches_differences() -> None:
    """Double backward: the gradient of a loss of forces and stress, for every parameter."""
    from conftest import random_chgnet

    model = random_chgnet().requires_grad_(True)
    graph = graph_of(model, systems.tiny_cell())

    def loss() -> torch.Tensor:
        outputs = evaluate(model, graph, training=True)
        return outputs.energy.square().sum() + outputs.forces.square().sum() + outputs.stress.square().sum()

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if name.startswith("magmom"):
            assert gradient is None
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        original = parameter.detach().clone()

        def along(step: float, p=parameter, start=original, d=direction) -> float:
            with torch.no_grad():
                p.copy_(start + step * d)
            return loss().item()

        numeric = central_difference(along, step=1e-4)
        along(0.0)
        assert gradient is not None, name
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-6), name
