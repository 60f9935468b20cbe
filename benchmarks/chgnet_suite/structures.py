"""Rattled supercells: silicon has few angles, magnesium oxide many (its second shell is at 2.98 A)."""

from __future__ import annotations

import ase
from ase.build import bulk

CELL_ATOMS = 8


def num_atoms(name: str) -> int:
    """Of a structure such as "Si 64"."""
    return int(name.split()[1])


def structure(name: str) -> ase.Atoms:
    """A cubic supercell, displacements of 0.05 A.

    Args:
        name: "Si" or "MgO", and the number of atoms, 8 times a third power.
    """
    kind = name.split()[0]
    cell = bulk("Si", cubic=True) if kind == "Si" else bulk("MgO", "rocksalt", a=4.21, cubic=True)
    atoms = cell.repeat(round((num_atoms(name) / CELL_ATOMS) ** (1 / 3)))
    assert len(atoms) == num_atoms(name), name
    atoms.rattle(0.05, seed=0)
    return atoms
