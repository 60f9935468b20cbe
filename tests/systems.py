"""Small structures with names, as ASE atoms with elements 1 to 30."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule


def si_rattled() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def nio() -> Atoms:
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    atoms.rattle(0.08, seed=2)
    return atoms


def tiny_cell() -> Atoms:
    """Two atoms in a cell much smaller than the cutoff."""
    atoms = bulk("MgO", "rocksalt", a=4.21)
    atoms.rattle(0.05, seed=3)
    return atoms


def skewed_cell() -> Atoms:
    """A strongly triclinic cell, not lower triangular, atoms outside the box."""
    atoms = bulk("Cu", "fcc", a=3.61).repeat((2, 1, 2))
    atoms.set_cell(atoms.cell.array @ np.array([[1.0, 0.6, 0.1], [0.0, 1.0, 0.7], [0.2, 0.0, 1.1]]), scale_atoms=True)
    atoms.rattle(0.1, seed=4)
    atoms.positions += 17.0 * atoms.cell[0] - 5.0 * atoms.cell[2]
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Al", (2, 2, 3), vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=5)
    return atoms


def water() -> Atoms:
    """A molecule: no cell, no pbc."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=6)
    return atoms


def wire() -> Atoms:
    """Periodic along c only, the other cell vectors missing."""
    return Atoms("C2H2", [[0, 0, 0], [0.1, 0, 1.3], [0.9, 0.3, 0], [-0.8, 0.4, 1.4]], cell=[0, 0, 2.6], pbc=(0, 0, 1))


def lone_atom() -> Atoms:
    return Atoms("Fe")


def far_pair() -> Atoms:
    """Two atoms with an edge but no bond: an empty angle list."""
    return Atoms("SiO", [[0, 0, 0], [4.5, 0.3, 0.1]])


PERIODIC = {f.__name__: f for f in (si_rattled, nio, tiny_cell, skewed_cell)}
ALL = {**PERIODIC, **{f.__name__: f for f in (slab, water, wire, lone_atom, far_pair)}}
