"""Pressure: the exact tensor against finite differences, barostats, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import openmm
import pytest
import systems
from ase.build import bulk
from export_files import exported
from openmm import app, unit
from openmm_systems import Case, case_of, context_of, empty_system, numbers_of, published_file, small, system_of

from uip import Calculator
from uip.openmm import PressureReporter, create_force, pressure_tensor
from uip.openmm.reporter import TO_BAR
from uip.units import EV_TO_KJ_PER_MOL

BAR_PER_EV_A3 = 160.2176634e4


def crystal() -> Case:
    return case_of(systems.skewed_cell())


def heated(context: openmm.Context) -> openmm.Context:
    context.setVelocitiesToTemperature(300, 7)
    return context


def test_static_part_is_the_calculators_stress() -> None:
    case = crystal()
    context = context_of(system_of(case, published_file()), case.positions)
    case.atoms.calc = Calculator(published_file())
    wanted = -case.atoms.get_stress(voigt=False) * BAR_PER_EV_A3
    assert pressure_tensor(context) == pytest.approx(wanted, rel=1e-6, abs=1e-3)


def test_pressure_of_a_model_that_needs_positions() -> None:
    """All-to-all attention with its radial bias is part of the pressure: compared with OpenMM's finite difference."""
    case = case_of(bulk("Al", "fcc", a=4.1).repeat((2, 1, 1)))
    case = Case(case.topology, case.positions + 0.01 * np.arange(6).reshape(2, 3) * unit.nanometer, case.atoms)
    # OpenMM's kinetic energy at rest is that of half a step
    context = context_of(system_of(case, exported("allscaip-radial", ".pt")), case.positions, step=1e-6)
    wanted = finite_difference(context, 1e-5)
    assert np.trace(pressure_tensor(context)) / 3 == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_the_trace_is_openmm_s_finite_difference(scale: float | None) -> None:
    """MonteCarloBarostat moves molecules as a whole; here each atom is one."""
    case = crystal()
    parameter = None if scale is None else "lambda"
    system = system_of(case, published_file(), scale_parameter=parameter)
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 0)
    system.addForce(barostat)
    context = heated(context_of(system, case.positions))
    if scale is not None:
        context.setParameter("lambda", scale)
    wanted = barostat.computeCurrentPressure(context).value_in_unit(unit.bar)
    exact = pressure_tensor(context)
    assert np.trace(exact) / 3 == pytest.approx(wanted, rel=1e-4)
    assert exact == pytest.approx(exact.T, rel=1e-8, abs=1e-6)


def test_all_components_are_strain_derivatives() -> None:
    """By finite differences of positions and box together, for a model whose stress has shear everywhere."""
    case = case_of(systems.nio())
    context = context_of(system_of(case, small()), case.positions)
    analytic = pressure_tensor(context)
    volume, step = case.atoms.get_volume(), 1e-4
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            # lower triangular, so that the box stays one that OpenMM takes
            strain[max(i, j), min(i, j)] += sign * step
            context.setPeriodicBoxVectors(*(case.atoms.cell.array @ strain * 0.1))
            context.setPositions(case.positions.value_in_unit(unit.nanometer) @ strain)
            energies.append(numbers_of(context)[0])
        wanted = -(energies[0] - energies[1]) / (2 * step) / volume * BAR_PER_EV_A3
        assert analytic[i, j] == pytest.approx(wanted, rel=1e-5, abs=1.0)


def finite_difference(context: openmm.Context, step: float) -> float:
    """(2/3 kinetic energy - dE/dlnV) / V in bar, from OpenMM's energies alone, as its barostats have it."""
    state = context.getState(getPositions=True, getEnergy=True)
    box, positions = state.getPeriodicBoxVectors(asNumpy=True)._value, state.getPositions(asNumpy=True)._value
    volume, energies = np.linalg.det(box), []
    for factor in (1 + step, 1 - step, 1.0):
        context.setPeriodicBoxVectors(*(box * factor))
        context.setPositions(positions * factor)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    static = -(energies[0] - energies[1]) / (volume * ((1 + step) ** 3 - (1 - step) ** 3))
    return (static + 2 / 3 * state.getKineticEnergy()._value / volume) * TO_BAR


@pytest.mark.long
@pytest.mark.slow
def test_npt_stays_stable() -> None:
    """1200 steps at 300 K with published CHGNet: the crystal stays one, and pressures agree along the way."""
    case = case_of(bulk("NaCl", "rocksalt", a=5.69, cubic=True))
    system = system_of(case, published_file(".pt2"))
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 20)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 5.0, 0.002)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(case.topology, system, integrator, openmm.Platform.getPlatform("CPU"))
    simulation.context.setPositions(case.positions)
    simulation.context.setVelocitiesToTemperature(300, 2)
    volumes, temperatures = [], []
    degrees = 3 * len(case.atoms) * unit.MOLAR_GAS_CONSTANT_R
    for step in range(24):
        simulation.step(50)
        state = simulation.context.getState(getEnergy=True)
        volumes.append(state.getPeriodicBoxVolume().value_in_unit(unit.angstrom**3))
        temperatures.append((2 * state.getKineticEnergy() / degrees).value_in_unit(unit.kelvin))
        if step % 6 == 5:
            exact = np.trace(pressure_tensor(simulation.context)) / 3
            assert exact == pytest.approx(finite_difference(simulation.context, 1e-4), rel=1e-4, abs=0.1)
            # the barostat's own step is ten times longer, and off by what that brings
            coarse = finite_difference(simulation.context, 1e-3)
            own = barostat.computeCurrentPressure(simulation.context).value_in_unit(unit.bar)
            assert own == pytest.approx(coarse, rel=1e-5, abs=0.1)
    assert 0.9 < np.mean(volumes[6:]) / case.atoms.get_volume() < 1.15
    assert np.std(volumes) > 0.0
    assert 200 < np.mean(temperatures[6:]) < 400


@pytest.mark.parametrize(
    "barostat",
    [
        openmm.MonteCarloBarostat(1.0, 300.0, 5),
        openmm.MonteCarloAnisotropicBarostat(openmm.Vec3(1, 1, 1), 300.0, True, True, True, 5),
        openmm.MonteCarloFlexibleBarostat(1.0, 300.0, 5),
    ],
    ids=lambda barostat: type(barostat).__name__,
)
def test_barostats_move_the_box(barostat: openmm.Force) -> None:
    case = case_of(systems.nio())
    system = system_of(case, small())
    system.addForce(openmm.XmlSerializer.clone(barostat))
    context = heated(context_of(system, case.positions))
    before = context.getState().getPeriodicBoxVectors(asNumpy=True)._value
    context.getIntegrator().step(60)
    after = context.getState().getPeriodicBoxVectors(asNumpy=True)._value
    assert np.abs(after - before).max() > 0
    # the energy that the Context believes in is that of a fresh one
    state = context.getState(getPositions=True, getEnergy=True)
    fresh = context_of(system, case.positions)
    fresh.setPeriodicBoxVectors(*after)
    fresh.setPositions(state.getPositions(asNumpy=True))
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_PER_MOL
    assert numbers_of(fresh)[0] == pytest.approx(energy, rel=1e-10)


def simulation_of(system: openmm.System, case: Case) -> app.Simulation:
    simulation = app.Simulation(
        case.topology, system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )
    simulation.context.setPositions(case.positions)
    return simulation


def test_reporter(tmp_path: Path) -> None:
    case = crystal()
    simulation = simulation_of(system_of(case, small()), case)
    text = io.StringIO()
    simulation.reporters += [PressureReporter(text, 2), PressureReporter(tmp_path / "pressure.txt", 2)]
    simulation.step(4)
    head, names, *lines = text.getvalue().splitlines()
    assert head == "# bar; covers kinetic energy and UipForces, which is all there is"
    assert names.split() == ["#", "step", "pressure", "xx", "yy", "zz", "yz", "xz", "xy"]
    assert [int(line.split()[0]) for line in lines] == [2, 4]
    p = pressure_tensor(simulation.context)
    p = (p + p.T) / 2
    wanted = [np.trace(p) / 3, p[0, 0], p[1, 1], p[2, 2], p[1, 2], p[0, 2], p[0, 1]]
    assert [float(word) for word in lines[-1].split()[1:]] == pytest.approx(wanted, abs=1e-3)
    assert (tmp_path / "pressure.txt").read_text() == text.getvalue()


def test_reporter_lists_what_it_leaves_out() -> None:
    case = crystal()
    system = system_of(case, small())
    spring = openmm.CustomExternalForce("periodicdistance(x, y, z, 0, 0, 0)^2")
    spring.addParticle(0)
    spring.setName("Spring")
    system.addForce(spring)
    system.addConstraint(0, 1, 0.2)
    simulation = simulation_of(system, case)
    with pytest.raises(ValueError, match="but the System also has Spring, 1 constraints; say partial=True"):
        pressure_tensor(simulation.context)
    text = io.StringIO()
    simulation.reporters.append(PressureReporter(text, 1, partial=True))
    simulation.step(1)
    assert text.getvalue().startswith("# bar; covers kinetic energy and UipForces, not: Spring, 1 constraints\n")


def test_a_weight_that_only_an_expression_knows() -> None:
    case = crystal()
    system = empty_system(case)
    squared = openmm.CustomCVForce("a^2")
    squared.addCollectiveVariable("a", create_force(small(), case.atoms.numbers, periodic=True))
    system.addForce(squared)
    with pytest.raises(ValueError, match="the weight of the UipForce inside of a CustomCVForce must be known"):
        pressure_tensor(context_of(system, case.positions))
