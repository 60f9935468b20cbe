"""What the OpenMM force refuses, and the messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import systems
from openmm_systems import case_of, context_of, empty_system, numbers_of, platforms, small, system_of
from small_programs import Bursting, Charged, Direct, write_program

from uip.openmm import create_force, find_forces, magmoms, pressure_tensor, set_charge_and_spin, topology_from_atoms

Refused = openmm.OpenMMException
WATER = [8, 1, 1]


def test_no_such_file() -> None:
    with pytest.raises(Refused, match=r"no such model file: /nowhere/model\.pt2"):
        create_force("/nowhere/model.pt2", WATER, periodic=False)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("not a model")
    with pytest.raises(Refused, match=r"cannot load model\.pt2: a model file is an archive written by 'uip export'"):
        create_force(path, WATER, periodic=False)


def test_unknown_element() -> None:
    with pytest.raises(Refused, match=r"atom 1 is Hg, but 'unnamed' knows H He .* Zn; use another model"):
        create_force(small(), [8, 80, 1], periodic=False)


def test_no_atoms() -> None:
    with pytest.raises(Refused, match="a UipForce must have at least one atom, got none"):
        create_force(small(), [], periodic=False)


def test_wrong_number_of_particles() -> None:
    with pytest.raises(ValueError, match="`particles` must name a place for each of the 3 atomic numbers, got 2"):
        create_force(small(), WATER, particles=[0, 1], periodic=False)


def test_a_particle_twice() -> None:
    with pytest.raises(Refused, match="must differ, but one is named twice"):
        create_force(small(), WATER, particles=[0, 1, 1], periodic=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"atomic_numbers": [8.5, 1, 1]}, "`atomic_numbers` must be a whole number, got 8.5"),
        ({"atomic_numbers": ["O", "H", "H"]}, "`atomic_numbers` must be a whole number, got 'O'"),
        ({"particles": [0, 1, 1.5]}, "`particles` must be a whole number, got 1.5"),
        ({"periodic": None}, "`periodic` must be True or False, got None"),
        ({"embed": "x"}, "`embed` must be True or False, got 'x'"),
        ({"group": "first"}, "`group` must be a whole number, got 'first'"),
        ({"skin": "x"}, "`skin` must be a number, got 'x'"),
        ({"scale_parameter": 5}, "`scale_parameter` must be a name like 'scale', got '5'"),
        ({"scale_parameter": ""}, "`scale_parameter` must be a name like 'scale', got ''"),
    ],
)
def test_arguments_of_another_kind(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        create_force(small(), **{"atomic_numbers": WATER, "periodic": False, **settings})


def test_negative_skin() -> None:
    for skin in (-1.0, 1e9):
        with pytest.raises(Refused, match=r"`skin` must be 0 \.\. 10\.0+ nm, got "):
            create_force(small(), WATER, periodic=False, skin=skin)


def test_charge_and_spin_that_the_model_does_not_read() -> None:
    with pytest.raises(Refused, match="'unnamed' knows no total charge, so `charge` must be 0, got 1"):
        create_force(small(), WATER, periodic=False, charge=1)
    with pytest.raises(Refused, match="'unnamed' knows no total spin, so `spin` must be 1, got 3"):
        create_force(small(), WATER, periodic=False, spin=3)
    with pytest.raises(Refused, match="'unnamed' knows no total spin, so `spin` must be 1, got 0"):
        create_force(small(), WATER, periodic=False, spin=0)


def test_another_number_of_particles_in_the_system() -> None:
    case = case_of(systems.water())
    system = system_of(case, small())
    system.addParticle(1.0)
    with pytest.raises(Refused, match="UipForce has 3 atoms, but the System has 4 particles; say which"):
        context_of(system, np.zeros((4, 3)))


@pytest.mark.parametrize("particle", [3, -1])
def test_a_particle_outside_the_system(particle: int) -> None:
    case = case_of(systems.water())
    system = system_of(case, small(), particles=[0, 1, particle])
    with pytest.raises(Refused, match=f"UipForce acts on particle {particle}, but the System has 3 particles"):
        context_of(system, case.positions)


@platforms()
def test_overlapping_atoms(platform: str) -> None:
    case = case_of(systems.water())
    context = context_of(system_of(case, small()), np.zeros((3, 3)), platform)
    with pytest.raises(Refused, match=r"atoms must be at least 0\.1 A apart, but atoms \d and \d are 0 A apart"):
        numbers_of(context)


@platforms()
def test_positions_that_are_not_finite(platform: str) -> None:
    case = case_of(systems.water())
    context = context_of(system_of(case, small()), case.positions, platform)
    context.setPositions(np.full((3, 3), np.nan))
    # the CPU platform looks at positions before the force does
    with pytest.raises(Refused, match=r"positions must be finite, but atom 0 has NaN|Particle coordinate is NaN"):
        numbers_of(context)


@platforms()
def test_results_that_are_not_finite(platform: str, tmp_path: Path) -> None:
    case = case_of(systems.water())
    system = system_of(case, write_program(Bursting(), tmp_path / "bursting.pt"))
    context = context_of(system, case.positions, platform)
    numbers_of(context)
    context.setPositions(case.positions * 0.3)
    with pytest.raises(Refused, match="'test' gave an energy or force that is not a finite number"):
        numbers_of(context)


def test_a_model_without_forces(tmp_path: Path) -> None:
    model = write_program(Direct(), tmp_path / "model.pt", outputs=["node_energy", "magmoms"])
    case = case_of(systems.water())
    with pytest.raises(Refused, match="'test' must return edge_grad or forces to be run in OpenMM"):
        context_of(system_of(case, model), case.positions)


def test_a_model_that_cannot_be_tested(tmp_path: Path) -> None:
    model = write_program(Direct(), tmp_path / "model.pt", outputs=["node_energy", "forces"], self_tests=[])
    case = case_of(systems.water())
    with pytest.raises(Refused, match=r"cannot load model\.pt: it must carry a self-test, but has none"):
        context_of(system_of(case, model), case.positions)


def test_charge_and_spin_reach_the_model(tmp_path: Path) -> None:
    case = case_of(systems.water())
    model = write_program(Charged(), tmp_path / "charged.pt")
    context = context_of(system_of(case, model), case.positions)
    neutral, forces = numbers_of(context)
    assert np.abs(forces).max() > 0.1
    set_charge_and_spin(context, charge=-2, spin=3)
    assert numbers_of(context)[0] == pytest.approx(neutral + 3 * (-2 + 20))
    # the System has changed with it
    assert numbers_of(context_of(context.getSystem(), case.positions))[0] == pytest.approx(neutral + 54)
    given = context_of(system_of(case, model, charge=1, spin=2), case.positions)
    assert numbers_of(given)[0] == pytest.approx(neutral + 3 * (1 + 10))


@pytest.mark.parametrize(
    ("charge", "spin", "message"),
    [
        (150, 1, r"`charge` must lie within \+-100 e, got 150; it is that of all atoms of the force"),
        (-101, 1, r"`charge` must lie within \+-100 e, got -101"),
        (0, 101, r"`spin` must be a multiplicity 2S \+ 1 within 1 \.\. 100, or 0 for models of .* spin, got 101"),
        (0, -1, r"`spin` must be a multiplicity .*, got -1"),
    ],
)
def test_charge_and_spin_have_limits(charge: int, spin: int, message: str, tmp_path: Path) -> None:
    """Both when a force is made and when it changes, which leaves the old numbers."""
    case, model = case_of(systems.water()), write_program(Charged(), tmp_path / "charged.pt")
    with pytest.raises(Refused, match=message):
        system_of(case, model, charge=charge, spin=spin)
    context = context_of(system_of(case, model, charge=100, spin=0), case.positions)
    before = numbers_of(context)[0]
    with pytest.raises(Refused, match=message):
        set_charge_and_spin(context, charge=charge, spin=spin)
    assert numbers_of(context)[0] == before


def test_direct_forces_are_used_and_warned_of_once(tmp_path: Path) -> None:
    model = write_program(
        Direct(), tmp_path / "direct.pt", outputs=["node_energy", "forces"], conservative=False, name="direct"
    )
    case = case_of(systems.water())
    code = f"""
import numpy as np, openmm
from uip.openmm import create_force
from openmm import unit
for _ in range(2):
    system = openmm.System()
    for z in (8, 1, 1): system.addParticle(z)
    system.addForce(create_force({str(model)!r}, [8, 1, 1], periodic=False))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference"))
    context.setPositions(np.eye(3) * 0.1)
    print(context.getState(getForces=True).getForces(asNumpy=True)._value[:, 0] / 964.8533212331)
"""
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.splitlines() == ["[8. 1. 1.]"] * 2
    assert result.stderr.count("the forces of 'direct' are no gradient of its energy") == 1
    (view,) = find_forces(context_of(system_of(case, model), case.positions))
    with pytest.raises(ValueError, match="a virial needs forces that are a gradient"):
        _ = view.virial


def test_questions_without_an_answer(tmp_path: Path) -> None:
    case = case_of(systems.water())
    nothing = context_of(empty_system(case), case.positions)
    with pytest.raises(ValueError, match="the Context must have one UipForce to be asked, got 0"):
        magmoms(nothing)
    context = context_of(system_of(case, write_program(Charged(), tmp_path / "charged.pt")), case.positions)
    with pytest.raises(ValueError, match="the model must have magnetic moments to be asked for them"):
        magmoms(context)
    with pytest.raises(ValueError, match="a pressure needs a periodic System with a UipForce"):
        pressure_tensor(context)
    from uip.openmm import plugin

    with pytest.raises(Refused, match="no quantity is called 'colour'"):
        plugin.read(context, 0, "colour")
    other = empty_system(case)
    other.addForce(openmm.CMMotionRemover())
    with pytest.raises(Refused, match="force 0 is no UipForce"):
        plugin.read(context_of(other, case.positions), 0, "energy")


def test_boxes_that_openmm_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"periodic along all directions or none, got pbc \[True, True, False\]"):
        topology_from_atoms(systems.slab())
    left = systems.nio()
    left.set_cell(left.cell.array[[1, 0, 2]])
    with pytest.raises(ValueError, match="OpenMM's boxes are right-handed, but the cell is not"):
        topology_from_atoms(left)
