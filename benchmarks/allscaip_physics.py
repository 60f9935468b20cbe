"""Symmetries that AllScAIP violates, measured: rotations, size-consistency, supercells, smoothness.

    python benchmarks/allscaip_physics.py                   (the toy weights of tests/data/allscaip, random)
    python benchmarks/allscaip_physics.py model.ckpt ...    (your models: elements H, C, O, Na, Cl)

Energies of a model with random weights differ from those of a trained one: compare each number with the spread of
energies in the first line. docs/models/allscaip.md explains each exception.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from uip.checkpoint import load_model
from uip.graph.ase_io import structure_from_atoms
from uip.inference.evaluator import Evaluator, load_evaluator, predict
from uip.models.allscaip import AllScAIP

ROTATIONS = 32
APART = (15.0, 50.0, 500.0)
"""A."""


def toys() -> Iterator[tuple[str, AllScAIP]]:
    """Toy models with random weights, with and without encodings."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fairchem_files import VARIANTS, read_json, read_state

    from uip.importers.published import allscaip_from_fairchem

    for name in VARIANTS:
        yield name, allscaip_from_fairchem(read_state(name), read_json(name)["config"])


def with_smooth(model: AllScAIP, smooth: bool) -> AllScAIP:
    """The same weights with another value of `smooth`."""
    other = AllScAIP(replace(model.config, smooth=smooth))
    other.load_state_dict(model.state_dict())
    other.card = model.card
    return other


def outputs(evaluator: Evaluator, atoms: Atoms) -> tuple[float, np.ndarray]:
    (found,) = predict(evaluator, [structure_from_atoms(atoms)])
    return float(found["energy"]), found["forces"]


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.1, seed=0)
    return atoms


def salt() -> Atoms:
    return rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True))


def rotations(evaluator: Evaluator) -> list[str]:
    """For a molecule: spread of energies and of forces rotated back, and spurious torque."""
    atoms = rattled(molecule("CH3CH2OH"))
    energies, turned_back = [], []
    for turn in Rotation.random(ROTATIONS, random_state=0):
        turned = atoms.copy()
        turned.positions = turn.apply(atoms.positions)
        energy, forces = outputs(evaluator, turned)
        energies.append(energy)
        turned_back.append(turn.inv().apply(forces))
    spread = np.std(energies) / len(atoms)
    scale, off = np.std(np.mean(turned_back, 0)), np.std(turned_back, 0).mean()
    torque = np.linalg.norm(np.cross(atoms.positions - atoms.get_center_of_mass(), turned_back[0]).sum(0))
    net = np.abs(turned_back[0].sum(0)).max()
    return [
        f"energy of ethanol over {ROTATIONS} rotations: {np.mean(energies):.4f} +- {np.std(energies):.1e} eV "
        f"({spread * 1e3:.2f} meV/atom)",
        f"forces turned back: standard deviation {off:.1e} eV/A, their own size {scale:.1e}",
        f"net torque {torque:.1e} eV, net force {net:.0e} eV/A",
    ]


def size_consistency(evaluator: Evaluator) -> list[str]:
    a, b = molecule("CH3CH2OH"), molecule("H2O")
    alone = sum(outputs(evaluator, one)[0] for one in (a, b))
    errors = []
    for distance in APART:
        moved = b.copy()
        moved.positions += [0.0, 0.0, distance]
        errors.append(f"{outputs(evaluator, a + moved)[0] - alone:+.2e}")
    return [
        f"ethanol + water {', '.join(f'{x:g}' for x in APART)} A apart, E(AB) - E(A) - E(B): {', '.join(errors)} eV"
    ]


def supercells(evaluator: Evaluator) -> list[str]:
    one = salt()
    energy, forces = outputs(evaluator, one)
    double = outputs(evaluator, one.repeat((2, 1, 1)))
    error = np.abs(double[1] - np.tile(forces, (2, 1))).max()
    return [f"NaCl 2 x 1 x 1: E - 2 E(cell) = {double[0] - 2 * energy:+.1e} eV, forces differ by {error:.1e} eV/A"]


def smoothness(model: AllScAIP) -> list[str]:
    """Changes over 2e-9 A where a neighbour enters or leaves, for both values of `smooth`."""
    lines = []
    for name, path, reach in (("pair, 6 A", approach, (5.5, 6.5)), ("NaCl, mid rank", shift, (0.0, 1.0))):
        for smooth in (False, True):
            evaluator = load_evaluator(with_smooth(model, smooth), dtype="float64")
            place = neighbour_event(evaluator, path, *reach)
            (e0, f0), (e1, f1) = (outputs(evaluator, path(place + sign * 1e-9)) for sign in (-1, 1))
            lines.append(f"{name}, smooth = {str(smooth).lower():5}: energy jumps {abs(e1 - e0):.0e} eV, ")
            lines[-1] += f"forces {np.abs(f1 - f0).max():.0e} eV/A"
    return lines


def approach(distance: float) -> Atoms:
    return Atoms("OHHNa", [[0, 0, 0], [0.8, 0.5, 0], [-0.8, 0.5, 0.1], [0, 0, distance]])


def shift(step: float) -> Atoms:
    atoms = salt().repeat(2)
    atoms.positions[0] += step
    return atoms


def neighbour_event(evaluator: Evaluator, path: Callable[[float], Atoms], low: float, high: float) -> float:
    """The first point on the path where the number of bonds changes, to 1e-12."""

    def bonds(place: float) -> int:
        found = evaluator.neighbor_list().build(structure_from_atoms(path(place))).bond_index
        assert found is not None
        return len(found)

    start = bonds(low)
    high = next(place for place in np.linspace(low, high, 21)[1:] if bonds(place) != start)
    while high - low > 1e-12:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if bonds(middle) == start else (low, middle)
    return 0.5 * (low + high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="checkpoints of uip")
    named = [(name, load_model(name)) for name in parser.parse_args().models] or toys()
    torch.set_num_threads(2)
    for name, model in named:
        if not isinstance(model, AllScAIP):
            raise SystemExit(f"{name} must be an AllScAIP, but is a {model.name}")
        evaluator = load_evaluator(model, dtype="float64")
        print(name)
        lines = rotations(evaluator) + size_consistency(evaluator) + supercells(evaluator)
        for line in lines + (smoothness(model) if model.conservative else []):
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
