"""Measures the teacher of salt water and trained models: docs/figures/salt_water.json, and salt_water.png from it.

    python measure_water.py teacher                   density at 1 bar and 300 K, radial distribution functions
    python measure_water.py saltwater-mini            errors on the test set, radial distribution functions in OpenMM,
                                                      density and drift of the energy in LAMMPS
    python measure_water.py runs/salt_water/best.ckpt errors          some parts

A model starts from a snapshot of the teacher, as in `demo_water.py`. Results of earlier calls stay in the file, by
name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
from ase import Atoms
from demo_water import BOX, EVERY, FOLDER, STEP, draw, export, frames_of, run_lammps, run_openmm
from flexible_water import Labels, teacher
from measure import Predicted, errors, predicted
from observables import FIRST, PAIRS, Radial, radial
from openmm import unit
from salt_water import simulation

from uip.data.read import read_atoms
from uip.units import A_TO_NM

RESULTS = FOLDER.parents[1] / "docs" / "figures" / "salt_water.json"
STEPS = {"teacher": 200_000, "model": 10_000, "density": 50_000, "drift": 5_000}
"""Of 1 fs for the teacher and 2 fs for a model; a fifth is left out at the start."""
LABELLED = 10
"""Every how many frames of a model's own dynamics the teacher labels."""
PRESSURE = 1.0
"""bar."""


def functions(frames: list[Atoms]) -> dict[str, Any]:
    """Radial distribution functions and their first peaks, by pair; of the last four fifths of the frames."""
    kept, result = frames[len(frames) // 5 :], {}
    for pair in PAIRS:
        found = radial(kept, pair)
        position, height = found.peak(FIRST[pair])
        result["-".join(pair)] = {
            "distance": found.distance.round(3).tolist(),
            "value": found.value.round(4).tolist(),
            "peak": {"distance": round(position, 3), "height": round(height, 3)},
        }
    return result


def density_of_teacher(start: Atoms) -> float:
    """g/cm^3 at 300 K and 1 bar, by OpenMM's Monte Carlo barostat, which moves whole molecules."""
    system = teacher(start)
    system.addForce(openmm.MonteCarloBarostat(PRESSURE, BOX.temperature, 25))
    integrator = openmm.LangevinMiddleIntegrator(BOX.temperature, 5.0, 0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(A_TO_NM * start.positions)
    context.setVelocitiesToTemperature(BOX.temperature, 1)
    volumes = []
    for _ in range(STEPS["teacher"] // EVERY):
        context.getIntegrator().step(EVERY)
        volumes.append(context.getState().getPeriodicBoxVolume().value_in_unit(unit.angstrom**3))
    return density_at(start, volumes)


def density_at(atoms: Atoms, volumes: Sequence[float]) -> float:
    """g/cm^3; the mean of the last four fifths of `volumes`, A^3."""
    grams = atoms.get_masses().sum() / 0.602214076  # of 1e-24
    return float(grams / np.mean(volumes[len(volumes) // 5 :]))


def equilibrated() -> tuple[openmm.Context, Atoms]:
    """The teacher after 10 ps, and its positions."""
    atoms = BOX.start(np.random.default_rng(0))
    context = simulation(atoms, BOX.temperature, seed=1)
    context.getIntegrator().step(10_000)
    positions = context.getState(getPositions=True).getPositions(asNumpy=True)
    atoms.positions = positions.value_in_unit(unit.angstrom)
    return context, atoms


def of_teacher() -> dict[str, Any]:
    context, atoms = equilibrated()
    frames = frames_of(context, atoms, STEPS["teacher"])
    return {"density": round(density_of_teacher(atoms), 4), "functions": functions(frames)}


def errors_of_molecules(items: Sequence[Predicted]) -> dict[str, float]:
    """Of the net force on molecules, which bonds and angles do not change: mean absolute component, meV/A."""
    labels, found = [], []
    for item in items:
        waters = 3 * item.atoms.symbols.count("O")
        for forces, kept in ((item.atoms.get_forces(), labels), (item.forces, found)):
            kept.append(forces[:waters].reshape(-1, 3, 3).sum(axis=1))
    label, prediction = np.concatenate(labels), np.concatenate(found)
    return {"forces": 1e3 * float(np.abs(prediction - label).mean()), "size": 1e3 * float(np.abs(label).mean())}


def errors_of(model: str, _: Atoms) -> dict[str, Any]:
    """Errors on the test set as in `measure.py`: meV/atom, meV/A."""
    items = predicted(model, list(read_atoms(FOLDER / "salt_water_test.xyz")))
    return {"errors": errors(items), "molecules": errors_of_molecules(items)}


def functions_of(model: str, start: Atoms) -> dict[str, Any]:
    """Also errors on frames of this run, labelled by the teacher: where the model goes by itself."""
    frames, label = run_openmm(export(model), start, STEPS["model"]), Labels(start)
    items = predicted(model, [label(atoms) for atoms in frames[::LABELLED]])
    return {"functions": functions(frames), "own": {**errors(items), "molecules": errors_of_molecules(items)}}


def density_of(model: str, start: Atoms) -> dict[str, Any]:
    """g/cm^3 at 300 K and 1 bar, in LAMMPS."""
    run_lammps(export(model), start, STEPS["density"], "npt")
    volumes = np.loadtxt(FOLDER / "salt_water.values")[:, 1]
    return {"density": round(density_at(start, volumes), 4), "ps": STEP * STEPS["density"]}


def drift_of(model: str, start: Atoms) -> dict[str, Any]:
    """Slope of the total energy without a thermostat, meV/atom/ns, and its standard deviation about it, meV/atom."""
    run_lammps(export(model), start, STEPS["drift"], "nve")
    steps, _, energies = np.loadtxt(FOLDER / "salt_water.values")[1:].T
    time, value = STEP * steps / 1000, 1000 * energies / len(start)
    slope, first = np.polyfit(time, value, 1)
    return {"drift": round(slope, 2), "fluctuation": round(float(np.std(value - slope * time - first)), 4)}


PARTS = {"errors": errors_of, "functions": functions_of, "density": density_of, "drift": drift_of}


def of_model(model: str, parts: Sequence[str]) -> dict[str, Any]:
    _, start = equilibrated()
    return {name: value for part in parts for name, value in PARTS[part](model, start).items()}


def curves_of(result: dict[str, Any]) -> list[Radial]:
    """The functions in a result, in the order of `PAIRS`."""
    found = [result["functions"]["-".join(pair)] for pair in PAIRS]
    return [Radial(np.array(one["distance"]), np.array(one["value"])) for one in found]


def main(name: str, *parts: str) -> None:
    """Add one result to the file, and draw all functions."""
    found = of_teacher() if name == "teacher" else of_model(name, parts or list(PARTS))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = {**results.get(name, {}), **found}
    RESULTS.write_text(json.dumps(results) + "\n")
    curves = {name: curves_of(result) for name, result in results.items() if "functions" in result}
    draw(curves, RESULTS.with_suffix(".png"))
    functions = found.pop("functions", {})
    print(found, {pair: one["peak"] for pair, one in functions.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
