"""examples/long_range: the teacher of salt water, its labels and frames, and observables of trajectories."""

from __future__ import annotations

import json
from pathlib import Path

import flexible_water
import measure
import measure_water
import numpy as np
import observables
import pytest
import salt_water
from ase import Atoms
from ase.build import make_supercell
from openmm import app, unit

from uip import Calculator

DEBYE = 0.2081943
"""e A."""
BOX = salt_water.Box(waters=46, pairs=1, density=1.0, temperature=300.0)


def some_box(seed: int = 0) -> Atoms:
    """Positions near a minimum of the energy, displaced by 0.05 A."""
    rng = np.random.default_rng(seed)
    atoms = BOX.start(rng)
    context = salt_water.simulation(atoms, 300.0, seed=1)
    positions = context.getState(getPositions=True).getPositions(asNumpy=True)
    atoms.positions = positions.value_in_unit(unit.angstrom) + 0.05 * rng.normal(size=atoms.positions.shape)
    return atoms


@pytest.fixture(scope="module")
def atoms() -> Atoms:
    return some_box()


def test_ions_are_those_that_openmm_ships_for_spce() -> None:
    """Joung and Cheatham's, in a force field file of OpenMM."""
    generators = app.ForceField("amber14/spce.xml").getGenerators()
    (nonbonded,) = [one for one in generators if type(one).__name__ == "NonbondedGenerator"]
    for symbol, name in (("Na", "Na+"), ("Cl", "Cl-")):
        theirs = nonbonded.params.paramsForType[f"spce_standard-{name}"]
        assert flexible_water.LENNARD_JONES[symbol] == pytest.approx((theirs["sigma"], theirs["epsilon"]), rel=1e-6)


def test_water_has_the_dipole_and_the_terms_of_the_paper() -> None:
    """SPC/Fw at its minimum: 2.19 D; in kcal/mol, A and rad: k / 2 dr^2 = 1059.162 / 2 dr^2, 75.90 / 2 dtheta^2."""
    length, stiffness = flexible_water.BOND
    angle, bending = flexible_water.ANGLE
    assert (stiffness / 418.4, bending / 4.184) == pytest.approx((1059.162, 75.90))
    dipole = 2 * flexible_water.CHARGES["H"] * 10 * length * np.cos(angle / 2) / DEBYE
    assert dipole == pytest.approx(2.19, abs=0.01)


def test_forces_and_stress_are_derivatives_of_the_energy(atoms: Atoms) -> None:
    """Along one random displacement, and one random strain of box and positions.

    PME leaves out what is beyond its cutoff of the direct sum, so pairs that cross it make small steps of the energy;
    the sum of all forces along the displacement is 20 eV/A in most directions.
    """
    label, rng = flexible_water.Labels(atoms), np.random.default_rng(1)
    labelled, step = label(atoms), 1e-4
    along = rng.normal(size=atoms.positions.shape)
    strain = np.tril(rng.normal(size=(3, 3)))
    slopes = []
    for positions, change in ((along, np.zeros((3, 3))), (np.zeros_like(along), strain)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * change), scale_atoms=True)
            moved.positions += sign * step * positions
            energies.append(label(moved).get_potential_energy())
        slopes.append((energies[0] - energies[1]) / (2 * step))
    assert slopes[0] == pytest.approx(-(labelled.get_forces() * along).sum(), abs=0.03)
    stress = labelled.get_stress(voigt=False)
    assert slopes[1] == pytest.approx(atoms.get_volume() * (stress * strain).sum(), rel=1e-2, abs=0.1)


def test_boxes_have_their_density_and_composition() -> None:
    atoms = BOX.start(np.random.default_rng(0))
    assert atoms.get_chemical_formula() == "H92ClNaO46"
    assert observables.density(atoms) == pytest.approx(BOX.density, rel=1e-6)
    bonds = [atoms.get_distance(oxygen, oxygen + 1, mic=True) for oxygen in range(0, 3 * BOX.waters, 3)]
    assert bonds == pytest.approx([bonds[0]] * BOX.waters)


def test_frames_repeat_with_their_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEATING": 5, "SETTLING": 5, "BETWEEN": 5}.items():
        monkeypatch.setattr(salt_water, name, value)
    first, again, other = (list(salt_water.walk(BOX, 2, np.random.default_rng(seed))) for seed in (0, 0, 1))
    for one, same in zip(first, again, strict=True):
        assert (one.positions == same.positions).all()
        assert one.get_potential_energy() == same.get_potential_energy()
    assert not (first[0].positions == other[0].positions).any()


@pytest.mark.parametrize(
    ("symbols", "length", "message"),
    [
        ("OHHNaCl", 10.0, "the box must be periodic and at least 11 A long, got pbc .* and 10.00 A"),
        ("OHHNa", 12.0, "a periodic box must be neutral, got 1 Na and 0 Cl"),
        ("HOHNaCl", 12.0, "atoms must be in the order O H H of each molecule, then Na, then Cl, got HOHNaCl"),
    ],
)
def test_boxes_that_the_teacher_does_not_take(symbols: str, length: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flexible_water.teacher(Atoms(symbols, cell=[length] * 3, pbc=True))


def test_radial_distribution_of_a_crystal_and_of_an_ideal_gas() -> None:
    """Rock salt has six neighbours at a / 2; independent positions have g = 1."""
    crystal = Atoms("NaO", [[0, 0, 0], [2, 2, 2]], cell=[[0, 2, 2], [2, 0, 2], [2, 2, 0]], pbc=True)
    cube = make_supercell(crystal, [[-3, 3, 3], [3, -3, 3], [3, 3, -3]])
    found = observables.radial([cube], ("Na", "O"))
    shell = np.argmin(np.abs(found.distance - 2.0))
    number = found.value * 4 * np.pi * found.distance**2 * observables.WIDTH * 108 / cube.get_volume()
    near = slice(max(shell - 2, 0), shell + 3)
    assert number[near].sum() == pytest.approx(6.0, rel=0.05)
    rng = np.random.default_rng(0)
    gas = [Atoms("O60", rng.uniform(0, 12, (60, 3)), cell=[12.0] * 3, pbc=True) for _ in range(40)]
    assert observables.radial(gas, ("O", "O")).value[60:].mean() == pytest.approx(1.0, abs=0.02)


def test_first_peaks_are_found_between_bins() -> None:
    distance = np.arange(1.0, 6.0, observables.WIDTH)
    peak = 1.0 + 2.0 * np.exp(-0.5 * ((distance - 2.761) / 0.2) ** 2)
    position, height = observables.Radial(distance, peak).peak((2.4, 3.3))
    assert (position, height) == (pytest.approx(2.761, abs=0.01), pytest.approx(3.0, abs=0.02))


def test_labels_are_in_units_of_ase(atoms: Atoms) -> None:
    """A bond stretched from its length by 0.3 A costs k / 2 dr^2, 2.07 eV; the rest of the energy changes little."""
    label, energies = flexible_water.Labels(atoms), []
    bond = atoms.positions[1] - atoms.positions[0]
    for length in (1.012, 1.312):
        atoms.positions[1] = atoms.positions[0] + length * bond / np.linalg.norm(bond)
        energies.append(label(atoms).get_potential_energy())
    assert energies[1] - energies[0] == pytest.approx(1059.162 / 23.0605 / 2 * 0.3**2, abs=0.5)


def test_the_shipped_model_knows_its_teacher() -> None:
    """Forces of a box that it has not seen, after 0.5 ps at 350 K."""
    atoms, label, frames = BOX.start(np.random.default_rng(5)), None, []
    context = salt_water.simulation(atoms, 350.0, seed=5)
    for _ in range(3):
        context.getIntegrator().step(250)
        atoms.positions = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        label = label or flexible_water.Labels(atoms)
        frames.append(label(atoms))
    calculator = Calculator("saltwater-mini")
    wanted = np.array([frame.get_forces() for frame in frames])
    found = np.array([calculator.get_forces(frame) for frame in frames])
    assert np.abs(found - wanted).mean() < 0.12 * np.abs(wanted).mean()


def test_results_are_added_by_name(atoms: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the peaks of each pair of elements; others stay in the file and in the figure."""
    monkeypatch.setattr(measure_water, "RESULTS", tmp_path / "salt_water.json")
    measure_water.RESULTS.write_text(json.dumps({"other.ckpt": {"functions": measure_water.functions([atoms])}}))
    monkeypatch.setattr(measure_water, "of_teacher", lambda: {"functions": measure_water.functions([atoms] * 3)})
    measure_water.main("teacher")
    results = json.loads(measure_water.RESULTS.read_text())
    assert list(results) == ["other.ckpt", "teacher"]
    assert measure_water.RESULTS.with_suffix(".png").exists()
    for pair, (low, high) in observables.FIRST.items():
        found = results["teacher"]["functions"]["-".join(pair)]
        assert low < found["peak"]["distance"] < high
        assert len(found["distance"]) == len(found["value"])


def test_net_forces_on_molecules_do_not_contain_bonds(atoms: Atoms) -> None:
    """A prediction without bonds and angles has the right net forces; one 10 meV/A too large on each atom has 30."""
    labelled = flexible_water.Labels(atoms)(atoms)
    forces = labelled.get_forces()
    internal = np.zeros_like(forces)
    internal[1] = [1.0, 0.0, 0.0]
    internal[0] = -internal[1]
    found = [
        measure_water.errors_of_molecules([measure.Predicted(labelled, 0.0, forces + change)])
        for change in (internal, 0.01)
    ]
    assert [one["forces"] for one in found] == pytest.approx([0.0, 30.0], abs=1e-6)
    assert found[0]["size"] > 100.0
