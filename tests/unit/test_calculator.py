"""The ASE calculator."""

from __future__ import annotations

import numpy as np
import pytest
import systems
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from conftest import random_allscaip, random_chgnet

from uip import Calculator


def test_all_properties() -> None:
    atoms = systems.nio()
    atoms.calc = Calculator("chgnet-0.3.0", dtype="float64")
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energy(force_consistent=True) == energy
    assert atoms.get_potential_energies().sum() == pytest.approx(energy)
    assert atoms.get_forces().shape == (8, 3)
    assert atoms.get_stress().shape == (6,)
    moments = atoms.get_magnetic_moments()
    assert (moments[atoms.numbers == 28] > 1.0).all()
    assert (moments[atoms.numbers == 8] < 0.3).all()


def test_stress_in_ase_order() -> None:
    """yz, xz, xy: the component that a shear along it changes."""
    atoms = systems.skewed_cell()
    atoms.calc = Calculator("chgnet-0.3.0", dtype="float64")
    numeric = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numeric, rtol=1e-4, atol=1e-7)


def test_energies_without_forces() -> None:
    """The same energies, without a gradient; what needs one is refused."""
    atoms = systems.nio()
    atoms.calc = Calculator("chgnet-0.3.0")
    energy, moments = atoms.get_potential_energy(), atoms.get_magnetic_moments()
    assert "forces" in atoms.calc.results
    atoms.calc.set(forces=False)
    assert atoms.get_potential_energy() == energy
    np.testing.assert_array_equal(atoms.get_magnetic_moments(), moments)
    for refused in (atoms.get_forces, atoms.get_stress, atoms.get_stresses):
        with pytest.raises(PropertyNotImplementedError):
            refused()
    atoms.calc.set(forces=True)
    assert atoms.get_forces().shape == (8, 3)


def test_energies_without_forces_of_other_readouts() -> None:
    atoms = systems.si_rattled()
    for model in (random_allscaip(), random_chgnet()):
        full, energies = Calculator(model), Calculator(model, forces=False)
        assert energies.get_potential_energy(atoms) == pytest.approx(full.get_potential_energy(atoms), rel=1e-6)
        assert "forces" not in energies.results


def test_a_file_has_no_energies_without_forces() -> None:
    with pytest.raises(ValueError, match=r"`forces=False` needs a model, got the exported file 'x\.pt2'"):
        Calculator("x.pt2", forces=False)


def test_a_molecule_has_no_stress() -> None:
    atoms = systems.water()
    atoms.calc = Calculator("chgnet-0.3.0")
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_the_list_is_reused_and_energy_conserved() -> None:
    """NVE, 200 fs: the neighbour list is searched rarely and the total energy stays."""
    atoms = systems.si_rattled().repeat((2, 1, 1))
    atoms.calc = Calculator("chgnet-0.3.0")
    atoms.set_velocities(np.random.default_rng(0).normal(0.0, np.sqrt(300 * units.kB / atoms.get_masses()[0]), (16, 3)))
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    before = atoms.get_total_energy()
    dynamics.run(200)
    assert abs(atoms.get_total_energy() - before) / len(atoms) < 1e-3
    assert atoms.calc.neighbors.num_searches < 40


def test_a_model_is_taken_and_left_as_it_was() -> None:
    model = random_chgnet().float().requires_grad_(True)
    calculator = Calculator(model, dtype="float64")
    atoms = systems.nio()
    atoms.calc = calculator
    atoms.get_forces()
    assert calculator.evaluator.potential.dtype == torch.float64
    assert model.reference_energy.dtype == torch.float32
    assert model.magmom.weight.requires_grad


def test_a_failed_call_leaves_no_stale_results() -> None:
    atoms = systems.nio()
    atoms.calc = Calculator("chgnet-0.3.0")
    atoms.get_forces()
    atoms.positions[0] = np.nan
    with pytest.raises(ValueError, match="positions must be finite"):
        atoms.get_forces()
    assert not atoms.calc.results


@pytest.mark.parametrize(("place", "pbc"), [(1e6, False), (1e300, True)])
def test_lost_atoms_are_named(place: float, pbc: bool) -> None:
    """Neighbour searches overflow in 1e6 A without a cell; in a cell, wrapping has no digits left."""
    atoms = Atoms("H3", positions=[[0, 0, 0], [0, 0, 1], [0, 0, place]], cell=[10, 10, 10], pbc=pbc)
    atoms.calc = Calculator(random_chgnet())
    with pytest.raises(ValueError, match=r"atoms must lie within 100000 A of each other .* may have exploded"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("Og"), "the structure has Og, but 'chgnet-0.3.0' knows H to Pu; use another model"),
        (Atoms("X"), "the structure has X, but 'chgnet"),
        (Atoms(), "at least one atom, got none"),
        (Atoms("Si2", [[0, 0, 0], [0, 0, 0]]), "atoms 0 and 1 are 0 A apart"),
        (Atoms("Si", cell=[1, 1, 0], pbc=True), "independent vectors"),
    ],
)
def test_bad_structures(atoms: Atoms, message: str) -> None:
    atoms.calc = Calculator("chgnet-0.3.0")
    with pytest.raises(ValueError, match=message):
        atoms.get_potential_energy()


def test_weights_that_explode_are_noticed() -> None:
    model = random_chgnet()
    with torch.no_grad():
        model.reference_energy.fill_(torch.nan)
    atoms = systems.nio()
    atoms.calc = Calculator(model)
    with pytest.raises(FloatingPointError, match="not a finite number"):
        atoms.get_potential_energy()


def test_charge_and_spin_are_part_of_the_state() -> None:
    """ASE itself does not look at `atoms.info`."""
    calculator, atoms = Calculator(random_allscaip()), systems.water()
    energies = []
    for charge, spin in ((0, 1), (1, 1), (1, 2), (0, 1)):
        atoms.info.update(charge=charge, spin=spin)
        fresh, atoms.calc = atoms.copy(), calculator
        fresh.calc = Calculator(random_allscaip())
        energies.append(atoms.get_potential_energy())
        assert energies[-1] == pytest.approx(fresh.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-10)
    assert energies[0] == pytest.approx(energies[3], abs=1e-10)
    assert np.ptp(energies[:3]) > 1e-3


@pytest.mark.parametrize(("key", "value"), [("charge", 0.5), ("charge", "one"), ("charge", np.nan), ("spin", None)])
def test_charge_and_spin_are_whole_numbers(key: str, value: object) -> None:
    atoms = systems.water()
    atoms.calc = Calculator(random_allscaip())
    atoms.get_potential_energy()
    atoms.info[key] = value
    with pytest.raises(ValueError, match=f"`{key}`, of the whole structure, must be a whole number, got"):
        atoms.get_potential_energy()
