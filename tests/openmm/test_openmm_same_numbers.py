"""ASE and OpenMM give the same numbers: platforms, kinds of files, boxes, subsets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
import systems
from ase import Atoms
from ase.build import molecule
from export_files import COMPILED, exported
from openmm import unit
from openmm_systems import (
    assert_same,
    bounds,
    case_of,
    context_of,
    empty_system,
    numbers_of,
    platforms,
    published_file,
    small,
    system_of,
)

from uip import Calculator
from uip.openmm import create_force, create_python_force, find_forces, magmoms, node_energies
from uip.units import EV_TO_KJ_PER_MOL

NAMES = ("si_rattled", "nio", "tiny_cell", "skewed_cell", "water", "far_pair")


ALLSCAIP = {
    "allscaip-plain": ("tiny_cell", 0, 1),
    "allscaip-angular": ("ethanol", 1, 2),
    "allscaip-radial": ("skewed_cell", 0, 3),
    "allscaip-full": ("ethanol", -1, 2),
}
"""Model, structure, charge, spin."""


def ase_numbers(atoms: Atoms, model: Path, dtype: str = "float64") -> tuple[float, np.ndarray]:
    copy = atoms.copy()
    copy.calc = Calculator(model, dtype=dtype)
    return copy.get_potential_energy(), copy.get_forces()


@platforms()
@pytest.mark.parametrize("suffix", [".pt", pytest.param(".pt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_published_model(name: str, suffix: str, platform: str) -> None:
    case, model = case_of(systems.ALL[name]()), published_file(suffix)
    context = context_of(system_of(case, model), case.positions, platform)
    assert_same(numbers_of(context), ase_numbers(case.atoms, model), bounds(platform, "float64"))


@pytest.mark.parametrize("implementation", [create_force, create_python_force])
@pytest.mark.parametrize("name", ALLSCAIP)
def test_soft_neighbours_charge_and_positions(name: str, implementation: Callable[..., openmm.Force]) -> None:
    """AllScAIP: it is not invariant under rotations, so ASE and OpenMM hold the structure alike."""
    structure, charge, spin = ALLSCAIP[name]
    case = case_of(ethanol() if structure == "ethanol" else light(systems.ALL[structure]()))
    model = exported(name, ".pt")
    system = empty_system(case)
    settings = {"periodic": case.periodic, "charge": charge, "spin": spin}
    system.addForce(implementation(model, case.atoms.numbers, **settings))
    case.atoms.info.update(charge=charge, spin=spin)
    wanted = ase_numbers(case.atoms, model)
    assert np.abs(wanted[1]).max() > 0.1
    assert_same(numbers_of(context_of(system, case.positions)), wanted)
    other = {**case.atoms.info, "spin": spin + 1}
    assert abs(ase_numbers(Atoms(case.atoms, info=other), model)[0] - wanted[0]) > 1e-3


def ethanol() -> Atoms:
    return molecule("CH3CH2OH")


def light(atoms: Atoms) -> Atoms:
    """The same with elements that the small models know."""
    atoms.numbers = np.where(atoms.numbers > 20, 13, atoms.numbers)
    return atoms


def test_virial_of_a_model_that_needs_positions() -> None:
    case = case_of(light(systems.skewed_cell()))
    model = exported("allscaip-radial", ".pt")
    (view,) = find_forces(context_of(system_of(case, model), case.positions))
    case.atoms.calc = Calculator(model)
    stress = case.atoms.get_stress(voigt=False)
    assert np.abs(stress).max() > 1e-3
    assert -view.virial / case.atoms.get_volume() == pytest.approx(stress, rel=1e-9, abs=1e-12)


@platforms()
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".pt", "float64"),
        (".pt", "float32"),
        pytest.param(".pt2", "float64", marks=COMPILED),
        pytest.param(".pt2", "float32", marks=[pytest.mark.slow, COMPILED]),
    ],
)
def test_kinds_of_files(suffix: str, dtype: str, platform: str) -> None:
    case = case_of(systems.nio())
    model = exported("random", suffix, dtype)
    context = context_of(system_of(case, model), case.positions, platform)
    exact = ase_numbers(case.atoms, exported("random", ".pt", "float64"))
    assert_same(numbers_of(context), exact, bounds("Reference" if dtype == "float32" else platform, dtype))


def test_magmoms_energies_and_stress() -> None:
    case = case_of(systems.nio())
    context = context_of(system_of(case, published_file()), case.positions)
    atoms = case.atoms
    atoms.calc = Calculator(published_file())
    assert magmoms(context) == pytest.approx(atoms.get_magnetic_moments(), rel=1e-10)
    energies = node_energies(context).value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_PER_MOL
    assert energies == pytest.approx(atoms.get_potential_energies(), rel=1e-10)
    (view,) = find_forces(context)
    stress = -view.virial / atoms.get_volume()
    assert stress == pytest.approx(atoms.get_stress(voigt=False), rel=1e-9, abs=1e-12)


def test_quantities_follow_the_state() -> None:
    """What is read belongs to the present positions, not to the last evaluation."""
    case = case_of(systems.nio())
    context = context_of(system_of(case, small()), case.positions)
    before = magmoms(context)
    moved = case.positions.value_in_unit(unit.nanometer).copy()
    moved[0] += 0.02
    context.setPositions(moved)
    after = magmoms(context)
    assert np.abs(after - before).max() > 1e-3
    assert after == pytest.approx(magmoms(context_of(system_of(case, small()), moved)), rel=1e-12)


@platforms()
@pytest.mark.parametrize("periodic", [True, False])
def test_subset_in_a_periodic_system(periodic: bool, platform: str) -> None:
    """Atoms of the model scattered over many boxes among others, whose forces are periodic."""
    rng = np.random.default_rng(0)
    molecule, box = systems.water(), 15.0
    places = [4, 1, 7]
    positions = rng.uniform(-40.0, 40.0, (10, 3))
    if periodic:  # images of one molecule; without images it has to stay whole
        shifts = rng.integers(-3, 4, (3, 3))
        positions[places] = molecule.positions + 7.0 + box * shifts
    else:
        positions[places] = molecule.positions + np.array([40.0, -20.0, 7.4])
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(np.eye(3) * box * 0.1))
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    nonbonded.setCutoffDistance(0.6)
    nonbonded.setForceGroup(1)
    for _ in range(10):
        system.addParticle(16.0)
        nonbonded.addParticle(0.0, 0.3, 1.0)
    system.addForce(nonbonded)
    system.addForce(create_force(small(), molecule.numbers, particles=places, periodic=periodic))
    context = context_of(system, positions * 0.1, platform)
    energy, forces = numbers_of(context, groups=1)
    wanted_energy, wanted_forces = ase_numbers(molecule, small())
    bound = (1e-8, 1e-8) if platform != "OpenCL" else (1e-5, 1e-3)
    assert_same((energy, forces[places]), (wanted_energy, wanted_forces), bound)
    others = np.delete(forces, places, axis=0)
    assert np.abs(others).max() == 0.0
    # the image in which OpenMM keeps an atom is its own affair
    for _ in range(3):
        context.getIntegrator().step(2)
    state = context.getState(getPositions=True, getForces=True, getEnergy=True, groups=1)
    now = molecule.copy()
    now.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)[places]
    if periodic:
        now.set_cell(np.eye(3) * box)
        now.pbc = True
    assert_same(
        (numbers_of(context, groups=1)[0], numbers_of(context, groups=1)[1][places]), ase_numbers(now, small()), bound
    )


@platforms()
def test_virtual_sites_and_constraints(platform: str) -> None:
    """A site's force goes to the atoms that carry it; constraints beside the model hold."""
    molecule = systems.water()
    system = openmm.System()
    for mass in (16.0, 1.0, 0.0, 12.0, 12.0):
        system.addParticle(mass)
    system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 3, 0.4, 0.6))
    system.addConstraint(3, 4, 0.12)
    # the site is the model's third atom
    system.addForce(create_force(small(), molecule.numbers, particles=[0, 1, 2], periodic=False))
    positions = np.zeros((5, 3))
    positions[:2] = molecule.positions[:2]
    positions[3] = (molecule.positions[2] - 0.4 * molecule.positions[0]) / 0.6
    positions[4] = positions[3] + [1.2, 0.0, 0.0]
    context = context_of(system, positions * 0.1, platform, step=0.0005)
    context.computeVirtualSites()
    energy, forces = numbers_of(context)
    wanted_energy, wanted = ase_numbers(molecule, small())
    spread = np.array([wanted[0] + 0.4 * wanted[2], wanted[1], np.zeros(3), 0.6 * wanted[2], np.zeros(3)])
    assert_same(
        (energy, np.delete(forces, 2, 0)), (wanted_energy, np.delete(spread, 2, 0)), bounds(platform, "float64")
    )
    context.getIntegrator().step(20)
    final = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    assert np.linalg.norm(final[4] - final[3]) == pytest.approx(0.12, rel=1e-5)


@platforms()
def test_scale_parameter_and_its_derivative(platform: str) -> None:
    case = case_of(systems.nio())
    plain = numbers_of(context_of(system_of(case, small()), case.positions, platform))
    context = context_of(system_of(case, small(), scale_parameter="lambda"), case.positions, platform)
    for value in (1.0, 0.25):
        context.setParameter("lambda", value)
        assert_same(numbers_of(context), (value * plain[0], value * plain[1]), bounds(platform, "float64"))
        state = context.getState(getParameterDerivatives=True)
        derivative = state.getEnergyParameterDerivatives()["lambda"] / EV_TO_KJ_PER_MOL
        assert derivative == pytest.approx(plain[0], rel=1e-6)
    (view,) = find_forces(context)
    assert view.weight == 0.25
    assert view.energy == pytest.approx(plain[0], rel=1e-6)


def test_three_contexts_at_once() -> None:
    """Each keeps its own neighbour list and state."""
    cases = [case_of(systems.ALL[name]()) for name in ("si_rattled", "nio", "water")]
    contexts = [context_of(system_of(case, small()), case.positions) for case in cases]
    for _ in range(2):
        for case, context in zip(cases, contexts, strict=True):
            assert_same(numbers_of(context), ase_numbers(case.atoms, small()))


def test_contexts_in_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    case = case_of(systems.nio())

    def run(seed: int) -> np.ndarray:
        context = context_of(system_of(case, small()), case.positions)
        context.setVelocitiesToTemperature(300, 5)
        context.getIntegrator().step(10)
        return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)

    alone = run(0)
    with ThreadPoolExecutor(3) as pool:
        for together in pool.map(run, range(3)):
            assert together == pytest.approx(alone, abs=1e-9)


def test_one_evaluation_per_step_and_few_searches() -> None:
    case = case_of(systems.nio())
    context = context_of(system_of(case, small()), case.positions)
    context.setVelocitiesToTemperature(300, 1)
    context.getIntegrator().step(50)
    (view,) = find_forces(context)
    counters = view.counters
    # one for each step's forces; OpenMM asks once more before the first
    assert counters["num_evaluations"] <= 51
    assert 1 <= counters["num_searches"] < 20
    searching = context_of(system_of(case, small(), skin=0.0), case.positions)
    searching.setVelocitiesToTemperature(300, 1)
    searching.getIntegrator().step(50)
    assert find_forces(searching)[0].counters["num_searches"] == find_forces(searching)[0].counters["num_evaluations"]
    ours, plain = (c.getState(getPositions=True).getPositions(asNumpy=True)._value for c in (context, searching))
    assert ours == pytest.approx(plain, abs=1e-10)


def test_skin_follows_the_box() -> None:
    """A shrinking box brings atoms together that do not move in fractions of it."""
    case = case_of(systems.nio())
    context = context_of(system_of(case, small()), case.positions)
    numbers_of(context)
    for factor in (0.99, 0.95, 0.90, 1.05):
        box = case.atoms.cell.array * factor * 0.1
        context.setPeriodicBoxVectors(*box)
        context.setPositions(case.positions.value_in_unit(unit.nanometer) * factor)
        scaled = case.atoms.copy()
        scaled.set_cell(case.atoms.cell.array * factor, scale_atoms=True)
        assert_same(numbers_of(context), ase_numbers(scaled, small()))


def test_energy_is_conserved() -> None:
    case = case_of(systems.water())
    context = context_of(system_of(case, small()), case.positions, step=0.0001)
    context.setVelocitiesToTemperature(100, 1)

    def total() -> float:
        state = context.getState(getEnergy=True)
        return (state.getPotentialEnergy() + state.getKineticEnergy()).value_in_unit(unit.kilojoule_per_mole)

    start = total()
    kinetic = context.getState(getEnergy=True).getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
    context.getIntegrator().step(200)
    assert total() == pytest.approx(start, abs=2e-3 * kinetic)


def test_units_are_those_of_the_package() -> None:
    import re

    from uip import units

    header = (Path(__file__).parents[2] / "openmm_plugin" / "units.h").read_text()
    values = dict(re.findall(r"constexpr double (\w+) = ([\d.]+);", header))
    assert float(values["EV_TO_KJ_PER_MOL"]) == units.EV_TO_KJ_PER_MOL
    assert float(values["A_TO_NM"]) == units.A_TO_NM
    assert float(values["NM_TO_A"]) * units.A_TO_NM == 1.0
