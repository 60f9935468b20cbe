"""The data sets of examples/long_range: labels are a Coulomb sum, forces are derivatives, seeds give the same files."""

from __future__ import annotations

import labels
import numpy as np
import pairs
import pytest
import random_charges
from ase import Atoms
from ase.build import bulk

COULOMB = 14.399645
"""e^2 / (4 pi eps0), eV A."""


def energy(atoms: Atoms, charges: np.ndarray) -> float:
    return labels.labelled(atoms, charges).get_potential_energy()


def slope(atoms: Atoms, charges: np.ndarray, atom: int, axis: int, step: float = 2e-3) -> float:
    """Central difference of the energy, eV/A."""
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[atom, axis] += sign * step
        ends.append(energy(moved, charges))
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("periodic", [True, False])
def test_forces_are_derivatives_of_the_energy(periodic: bool) -> None:
    atoms, charges = random_charges.box(16, np.random.default_rng(0)), np.array([1.0, -1.0] * 8)
    atoms.pbc = periodic
    forces = labels.labelled(atoms, charges).get_forces()
    assert np.abs(forces).max() > 0.5
    found = [-slope(atoms, charges, atom, axis) for atom in (0, 3) for axis in range(3)]
    assert forces[[0, 3]].flatten() == pytest.approx(found, abs=2e-4)


def test_the_periodic_sum_has_the_madelung_constant_of_salt() -> None:
    atoms = bulk("NaCl", "rocksalt", a=10.0, cubic=True)  # wide: no repulsion at 5 A
    charges = np.where(atoms.numbers == 11, 1.0, -1.0)
    assert energy(atoms, charges) / 4 == pytest.approx(-1.747565 * COULOMB / 5.0, abs=1e-5)


def test_an_ion_pair_has_the_energy_of_the_formula() -> None:
    """At 3 A, within the range of the repulsion where it is not switched off, and at 20 A."""
    for distance, repulsion in ((3.0, labels.REPULSION * np.exp(-3.0 / labels.DECAY)), (20.0, 0.0)):
        atoms = pairs.pair(("Na", "Cl"), distance, np.random.default_rng(0))
        assert atoms.get_potential_energy() == pytest.approx(repulsion - COULOMB / distance, abs=1e-6)


def test_a_molecule_has_no_energy_of_its_own() -> None:
    """Far from an ion only the dipole is left: at most q p / d^2."""
    atoms = pairs.pair(("Na", "HF"), 500.0, np.random.default_rng(1))
    assert abs(atoms.get_potential_energy()) < COULOMB * 0.4 * pairs.BOND / 500.0**2 * 1.01


def test_sets_repeat_with_their_seed_and_have_random_numbers_of_their_own() -> None:
    def positions(name: str, seed: int) -> np.ndarray:
        return random_charges.boxes(name, seed, 2, 16)[1].positions

    assert (positions("train", 0) == positions("train", 0)).all()
    assert not (positions("train", 0) == positions("train", 1)).any()
    assert not (positions("train", 0) == positions("test", 0)).any()
    first, again = (pairs.pairs("test", 3, 6, 25.0) for _ in range(2))
    assert [atoms.info["kind"] for atoms in first] == ["-".join(names) for names in pairs.KINDS]
    for one, other in zip(first, again, strict=True):
        assert (one.positions == other.positions).all()
        assert (one.get_forces() == other.get_forces()).all()


def test_total_charge_and_distance_are_written() -> None:
    rng = np.random.default_rng(0)
    for names, charge in ((("Na", "Na"), 2), (("Cl", "HF"), -1), (("HF", "HF"), 0)):
        atoms = pairs.pair(names, 4.0, rng)
        assert (atoms.info["charge"], atoms.info["distance"]) == (charge, 4.0)


@pytest.mark.parametrize(
    ("length", "charges", "message"),
    [
        (8.0, [1.0, -1.0], "a periodic box must be at least 9 A long, got 8"),
        (12.0, [1.0, 1.0], "the charges in a periodic box must add up to 0, got 2"),
    ],
)
def test_boxes_without_a_label(length: float, charges: list[float], message: str) -> None:
    atoms = Atoms("NaCl", [[0, 0, 0], [3, 0, 0]], cell=[length] * 3, pbc=True)
    with pytest.raises(ValueError, match=message):
        labels.labelled(atoms, np.array(charges))


def test_ions_keep_their_distance_across_the_boundary() -> None:
    atoms = random_charges.box(32, np.random.default_rng(2))
    distances = atoms.get_all_distances(mic=True)[~np.eye(32, dtype=bool)]
    assert distances.min() > random_charges.SHORTEST
