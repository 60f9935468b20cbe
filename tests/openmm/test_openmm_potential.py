"""openmm-ml: `MLPotential("uip")` makes whole and mixed Systems, native or by Python, with link atoms and lambda."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import numpy as np
import openmm
import pytest
import systems
from export_files import exported
from openmm import app, unit
from openmm_systems import assert_same, bounds, case_of, context_of, numbers_of, platforms, small, system_of

from uip import Calculator

openmmml = pytest.importorskip("openmmml", reason="the package openmmml is not installed")

ENTRY_POINT = "uip.openmm.potential:UipPotentialImplFactory"


@pytest.fixture(autouse=True)
def _registered() -> None:
    """From the sources, uip has no entry points of its own: do what openmm-ml does with them."""
    if "uip" not in openmmml.MLPotential._implFactories:
        point = importlib.metadata.EntryPoint("uip", ENTRY_POINT, "openmmml.potentials")
        openmmml.MLPotential.registerImplFactory("uip", point.load()())


def potential() -> openmmml.MLPotential:
    return openmmml.MLPotential("uip", modelPath=str(small()))


def test_the_entry_point_is_declared() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.split('[project.entry-points."openmmml.potentials"]')[1].split("\n[")[0]
    assert re.search(rf'^uip = "{re.escape(ENTRY_POINT)}"$', section, re.MULTILINE)


@platforms()
@pytest.mark.parametrize("implementation", ["native", "python"])
@pytest.mark.parametrize("name", ["nio", "skewed_cell", "water"])
def test_create_system(name: str, implementation: str, platform: str) -> None:
    case = case_of(systems.ALL[name]())
    system = potential().createSystem(case.topology, implementation=implementation)
    assert system.usesPeriodicBoundaryConditions() == case.periodic
    assert isinstance(system.getForce(0), openmm.PythonForce) == (implementation == "python")
    wanted = numbers_of(context_of(system_of(case, small()), case.positions, platform))
    assert_same(numbers_of(context_of(system, case.positions, platform)), wanted, bounds(platform, "float64"))


@pytest.mark.parametrize("implementation", ["native", "python"])
def test_create_system_of_an_ion(implementation: str) -> None:
    """Total charge and multiplicity reach a model that reads them, in open space and in a box."""
    ml = openmmml.MLPotential("uip", modelPath=str(exported("allscaip-plain", ".pt")))
    for name in ("water", "tiny_cell"):
        case = case_of(systems.ALL[name]())
        settings = {"charge": -1, "multiplicity": 2, "implementation": implementation}
        energy, forces = numbers_of(context_of(ml.createSystem(case.topology, **settings), case.positions))
        case.atoms.info.update(charge=-1, spin=2)
        case.atoms.calc = Calculator(exported("allscaip-plain", ".pt"))
        assert_same((energy, forces), (case.atoms.get_potential_energy(), case.atoms.get_forces()))
        neutral = ml.createSystem(case.topology, implementation=implementation)
        assert abs(numbers_of(context_of(neutral, case.positions))[0] - energy) > 1e-3


def ethane_in_a_box() -> tuple[app.Topology, np.ndarray, openmm.System]:
    """Two bonded carbons with three hydrogens each, the classical model of a toy, and a neon atom beside it."""
    import ase.build

    molecule = ase.build.molecule("C2H6")
    topology = app.Topology()
    residue = topology.addResidue("ETH", topology.addChain())
    atoms = [
        topology.addAtom(f"{atom.symbol}{k}", app.Element.getBySymbol(atom.symbol), residue)
        for k, atom in enumerate(molecule)
    ]
    bonds = [(0, 1), *((0, k) for k in (2, 3, 4)), *((1, k) for k in (5, 6, 7))]
    for i, j in bonds:
        topology.addBond(atoms[i], atoms[j])
    topology.addAtom("Ne", app.Element.getBySymbol("Ne"), topology.addResidue("NE", topology.addChain()))
    topology.setPeriodicBoxVectors(np.eye(3) * 2.0 * unit.nanometer)
    positions = np.vstack([molecule.positions, [4.0, 0.0, 0.0]]) * 0.1 + 0.8
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    bonded, nonbonded = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.PME)
    nonbonded.setCutoffDistance(0.9)
    for mass in (*molecule.get_masses(), 20.2):
        system.addParticle(mass)
    for k in range(9):
        nonbonded.addParticle((-0.3, -0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0)[k], 0.3, 0.4)
    for i, j in bonds:
        bonded.addBond(i, j, float(np.linalg.norm(positions[i] - positions[j])), 2e5)
    nonbonded.createExceptionsFromBonds(bonds, 0.8333, 0.5)
    system.addForce(bonded)
    system.addForce(nonbonded)
    return topology, positions, system


@platforms(slow=("OpenCL",))
def test_mixed_system(platform: str) -> None:
    """A molecule by the model, its surroundings classical: the model adds its energy of the molecule alone."""
    topology, positions, classical = ethane_in_a_box()
    mixed = potential().createMixedSystem(topology, classical, list(range(8)), forceGroup=3)
    context = context_of(mixed, positions, platform)
    molecule = case_of(systems.Atoms("C2H6", positions[:8] * 10))
    alone = numbers_of(context_of(system_of(molecule, small(), periodic=False), molecule.positions, platform))
    energy, forces = numbers_of(context, groups=1 << 3)
    assert_same((energy, forces[:8]), alone, bounds(platform, "float64"))
    assert mixed.getForce(mixed.getNumForces() - 1).usesPeriodicBoundaryConditions()
    context.setVelocitiesToTemperature(10, 1)
    context.getIntegrator().step(3)


@pytest.mark.parametrize("implementation", ["native", "python"])
def test_link_atoms(implementation: str) -> None:
    """The bond between the carbons is cut: the model sees CH3 and a hydrogen in place of the other carbon."""
    topology, positions, classical = ethane_in_a_box()
    info = potential().createMixedSystem(
        topology, classical, [0, 2, 3, 4], forceGroup=3, returnInfo=True, implementation=implementation
    )
    system, new = info["system"], info["topology"]
    assert system.getNumParticles() == 10
    all_positions = np.zeros((10, 3))
    all_positions[info["oldToNew"]] = positions
    context = context_of(system, all_positions)
    context.computeVirtualSites()
    site = next(k for k in range(10) if system.isVirtualSite(k))
    assert list(new.atoms())[site].element.symbol == "H"
    placed = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    seen = [info["oldToNew"][k] for k in (0, 2, 3, 4)] + [site]
    methane = case_of(systems.Atoms("CH4", placed[seen] * 10))
    energy, forces = numbers_of(context_of(system_of(methane, small()), methane.positions))
    mixed_energy, mixed_forces = numbers_of(context, groups=1 << 3)
    assert mixed_energy == pytest.approx(energy, rel=1e-10)
    # nothing is lost: the site's force went to the two carbons
    assert np.delete(mixed_forces, site, axis=0).sum(0) == pytest.approx(forces.sum(0), abs=1e-9)
    carbons = [info["oldToNew"][k] for k in (0, 1)]
    assert mixed_forces[carbons].sum(0) == pytest.approx(forces[0] + forces[4], abs=1e-9)


@platforms(slow=("OpenCL",))
def test_interpolation_is_linear(platform: str) -> None:
    topology, positions, classical = ethane_in_a_box()
    ends = {
        0.0: numbers_of(context_of(classical, positions, platform)),
        1.0: numbers_of(
            context_of(potential().createMixedSystem(topology, classical, list(range(8))), positions, platform)
        ),
    }
    system = potential().createMixedSystem(topology, classical, list(range(8)), interpolate=True)
    context = context_of(system, positions, platform)
    tight = bounds(platform, "float64") if platform != "OpenCL" else (1e-5, 1e-3)
    for value in (0.0, 0.3, 1.0):
        context.setParameter("lambda_interpolate", value)
        wanted = tuple((1 - value) * a + value * b for a, b in zip(ends[0.0], ends[1.0], strict=True))
        if platform == "OpenCL":
            assert_same(numbers_of(context), wanted, tight)
        else:
            assert numbers_of(context)[0] == pytest.approx(wanted[0], rel=1e-5)
            assert np.abs(numbers_of(context)[1] - wanted[1]).max() < 1e-4 * max(1.0, np.abs(wanted[1]).max())


def test_python_forces_survive_xml() -> None:
    case = case_of(systems.nio())
    system = potential().createSystem(case.topology, implementation="python")
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert_same(numbers_of(context_of(again, case.positions)), numbers_of(context_of(system, case.positions)))


def test_published_names_by_python() -> None:
    """What is not exported runs eagerly."""
    from uip import Calculator

    case = case_of(systems.nio())
    published = openmmml.MLPotential("uip", modelPath="chgnet-0.3.0")
    system = published.createSystem(case.topology, implementation="python", dtype="float64")
    case.atoms.calc = Calculator("chgnet-0.3.0", dtype="float64")
    energy, forces = numbers_of(context_of(system, case.positions))
    assert energy == pytest.approx(case.atoms.get_potential_energy(), rel=1e-10)
    assert forces == pytest.approx(case.atoms.get_forces(), abs=1e-8)
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert numbers_of(context_of(copied, case.positions))[0] == pytest.approx(energy, rel=1e-12)


def test_where_the_plugin_does_not_fit_python_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import uip.openmm

    def fails() -> None:
        raise RuntimeError("built for another OpenMM")

    monkeypatch.setattr(uip.openmm, "load_plugin", fails)
    case = case_of(systems.nio())
    with pytest.warns(RuntimeWarning, match="slower PythonForce instead of the native one: built for another OpenMM"):
        system = potential().createSystem(case.topology, embed=True)
    assert isinstance(system.getForce(0), openmm.PythonForce)
    wanted = numbers_of(context_of(system_of(case, small()), case.positions))
    assert_same(numbers_of(context_of(system, case.positions)), wanted)


def test_messages() -> None:
    case = case_of(systems.nio())
    with pytest.raises(ValueError, match=r"needs `modelPath`, a file written by 'uip export', and nothing else"):
        openmmml.MLPotential("uip")
    with pytest.raises(ValueError, match="`implementation` must be one of native, python, got 'jax'"):
        potential().createSystem(case.topology, implementation="jax")
    with pytest.raises(ValueError, match=r"'random-float64\.pt' reads no total charge, so `charge` must be 0, got 1"):
        potential().createSystem(case.topology, implementation="python", charge=1)
    with pytest.raises(ValueError, match=r"the total charge must lie within \+-100 e .* got charge 150 and spin 1"):
        potential().createSystem(case.topology, implementation="python", charge=150)
    topology, _, classical = ethane_in_a_box()
    with pytest.raises(ValueError, match="a PythonForce on some atoms of a periodic System must be periodic itself"):
        potential().createMixedSystem(topology, classical, [0, 1], implementation="python", periodic=False)
    nameless = app.Topology()
    nameless.addAtom("X", None, nameless.addResidue("X", nameless.addChain()))
    with pytest.raises(ValueError, match=r"must have elements, but atom 0 \(X\) has none"):
        potential().createSystem(nameless)


def test_failures_in_python_reach_the_user() -> None:
    case = case_of(systems.nio())
    context = context_of(potential().createSystem(case.topology, implementation="python"), case.positions * 0)
    with pytest.raises(openmm.OpenMMException, match="atoms must be at least"):
        numbers_of(context)


def test_energies_are_not_long_ranged() -> None:
    assert potential()._impl.getMLLongRange() is False
