"""The physics contract of AllScAIP in float64, and its documented exceptions: docs/models/allscaip.md."""

from __future__ import annotations

import numpy as np
import pytest
import systems
import torch
from ase import Atoms
from conftest import random_allscaip
from evaluate import graph_of
from numpy.typing import NDArray

from uip.graph.batch import batch
from uip.models.allscaip import AllScAIP
from uip.models.readout import evaluate

VARIANTS = {
    "plain": {},
    "angular": {"angular": True},
    "radial": {"radial": True},
    "full": {"angular": True, "radial": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def allscaip(request: pytest.FixtureRequest) -> AllScAIP:
    return random_allscaip(**VARIANTS[request.param])


def charged(atoms: Atoms, charge: int = -1, spin: int = 2) -> Atoms:
    atoms = atoms[[atom.number <= 20 for atom in atoms]] if len(atoms) > 1 else atoms
    atoms.info.update(charge=charge, spin=spin)
    return atoms


def hydroxide_salt() -> Atoms:
    """A strongly triclinic cell smaller than the cutoff, charged."""
    atoms = systems.skewed_cell()
    atoms.numbers = np.resize([8, 1, 11, 17], len(atoms))
    return charged(atoms)


CASES = {
    "triclinic": hydroxide_salt,
    "molecule": systems.water,
    "wire": systems.wire,
    "si": systems.si_rattled,
}


def energy(model: AllScAIP, atoms: Atoms) -> float:
    return float(evaluate(model, graph_of(model, atoms)).energy[0])


@pytest.mark.parametrize("case", CASES)
def test_forces_are_derivatives(allscaip: AllScAIP, case: str) -> None:
    atoms = CASES[case]()
    forces = evaluate(allscaip, graph_of(allscaip, atoms)).forces
    assert forces is not None
    step = 1e-4
    for atom, axis in [(0, 0), (1, 1), (len(atoms) - 1, 2)]:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            ends.append(energy(allscaip, moved))
        assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(float(forces[atom, axis]), abs=2e-6, rel=1e-6)


@pytest.mark.parametrize("case", ["triclinic", "si"])
def test_stress_is_a_derivative(allscaip: AllScAIP, case: str) -> None:
    """Of strains that are symmetric: a model that is not invariant under rotations has no other stress."""
    atoms = CASES[case]()
    stress = evaluate(allscaip, graph_of(allscaip, atoms)).stress
    assert stress is not None
    step = 1e-5
    for a, b in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        ends = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            ends.append(energy(allscaip, strained))
        finite = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
        assert finite == pytest.approx(float(stress[0, a, b]), abs=1e-6, rel=1e-5)


def test_order_place_and_company_do_not_matter(allscaip: AllScAIP) -> None:
    atoms = hydroxide_salt()
    graph = graph_of(allscaip, atoms)
    alone = evaluate(allscaip, graph)
    order = np.random.default_rng(0).permutation(len(atoms))
    shuffled = atoms[order]
    shuffled.info.update(atoms.info)
    shuffled.positions += [3.0, -40.0, 0.7]
    moved = evaluate(allscaip, graph_of(allscaip, shuffled))
    torch.testing.assert_close(moved.energy, alone.energy, rtol=1e-11, atol=0)
    assert alone.forces is not None
    torch.testing.assert_close(moved.forces, alone.forces[torch.from_numpy(order)], rtol=1e-9, atol=1e-10)
    both = evaluate(allscaip, batch([graph_of(allscaip, systems.water()), graph]))
    torch.testing.assert_close(both.energy[1], alone.energy[0], rtol=1e-11, atol=0)
    assert both.forces is not None
    torch.testing.assert_close(both.forces[3:], alone.forces, rtol=1e-9, atol=1e-10)


def test_forces_add_up_to_nothing(allscaip: AllScAIP) -> None:
    forces = evaluate(allscaip, graph_of(allscaip, hydroxide_salt())).forces
    assert forces is not None
    assert forces.sum(0).abs().max() < 1e-10


def crossing() -> tuple[Atoms, NDArray[np.float64]]:
    """A cluster, and the distance of an atom at which it becomes a neighbour of the first: x = 1."""
    atoms = Atoms("OHHO", [[0, 0, 0], [0.8, 0.5, 0], [-0.8, 0.5, 0.1], [0, 0, 5.0]])
    return atoms, np.array([0.0, 0.0, 1.0])


def edge_of_bonds(model: AllScAIP) -> tuple[Atoms, float, NDArray[np.float64]]:
    """Bisection of the distance at which the number of bonds changes."""
    atoms, direction = crossing()

    def bonds(distance: float) -> int:
        moved = atoms.copy()
        moved.positions[3] = distance * direction
        found = graph_of(model, moved).bond_index
        assert found is not None
        return len(found)

    low, high = 5.0, 6.2
    many = bonds(low)
    assert bonds(high) < many
    while high - low > 1e-12:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if bonds(middle) == many else (low, middle)
    return atoms, 0.5 * (low + high), direction


@pytest.mark.parametrize("smooth", [True, False])
def test_neighbours_come_and_go_smoothly(smooth: bool) -> None:
    """`smooth = false`, the published form, jumps; that is why new models have `smooth = true`."""
    model = random_allscaip(smooth=smooth)
    atoms, distance, direction = edge_of_bonds(model)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[3] = (distance + sign * 1e-9) * direction
        ends.append(evaluate(model, graph_of(model, moved)))
    jump = abs(float(ends[0].energy[0] - ends[1].energy[0]))
    assert ends[0].forces is not None
    assert ends[1].forces is not None
    force_jump = float((ends[0].forces - ends[1].forces).abs().max())
    if smooth:
        assert jump < 1e-8
        assert force_jump < 1e-7
    else:
        assert jump > 1e-4


def test_rotations_change_the_energy(allscaip: AllScAIP) -> None:
    """Documented: harmonics of directions enter an MLP; only training makes the model nearly invariant."""
    atoms = systems.water()
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3))
    assert abs(energy(allscaip, turned) - energy(allscaip, atoms)) > 1e-4


def test_far_molecules_are_not_additive_unless_attention_is_local() -> None:
    """Documented: the softmax over all atoms runs over both molecules."""
    near = systems.water()
    pair = near + near
    pair.positions[3:] += [0, 0, 300.0]
    for node_attention in (True, False):
        model = random_allscaip(node_attention=node_attention)
        error = abs(energy(model, pair) - 2 * energy(model, near))
        # identical molecules leave the averages over keys as they are
        assert error < 1e-9
        other = near + Atoms("Na", [[0, 0, 300.0]])
        error = abs(energy(model, other) - energy(model, near) - energy(model, Atoms("Na")))
        assert (error > 1e-4) == node_attention


def test_perfect_supercells_are_extensive_without_radial_bias() -> None:
    atoms = systems.si_rattled()
    double = atoms.repeat((2, 1, 1))
    errors = [abs(energy(model, double) - 2 * energy(model, atoms)) for model in map(of_variant, ("plain", "radial"))]
    assert errors[0] < 1e-9
    assert errors[1] > 1e-4  # documented: the nearest image alone enters the bias


def of_variant(name: str) -> AllScAIP:
    return random_allscaip(**VARIANTS[name])


def test_losses_of_forces_have_exact_gradients() -> None:
    """Double backward by finite differences in every parameter group."""
    model = of_variant("full").requires_grad_(True).train()
    graph = batch([graph_of(model, atoms) for atoms in (systems.water(), Atoms("OH", [[0, 0, 0], [0.6, 0.5, 0.6]]))])

    def loss() -> torch.Tensor:
        outputs = evaluate(model, graph, training=True)
        assert outputs.forces is not None
        return outputs.forces.square().mean() + 1e-3 * outputs.energy.square().mean()

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    checked = 0
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None or gradient.abs().max() < 1e-9 or ".1." in name:
            continue
        place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape) if gradient.dim() else ()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * 1e-5
            ends.append(float(loss().detach()))
            with torch.no_grad():
                parameter[place] -= sign * 1e-5
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient[place]), rel=2e-4, abs=1e-7), name
        checked += 1
    assert checked > 40
