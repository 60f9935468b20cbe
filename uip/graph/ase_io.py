"""From ASE atoms to a `Structure`."""

from __future__ import annotations

import ase

from uip.graph.structure import Structure, check_charge_and_spin, check_structure


def structure_from_atoms(atoms: ase.Atoms) -> Structure:
    """Checked arrays of an ASE structure; total charge and spin multiplicity from `atoms.info`."""
    charge, spin = charge_and_spin(atoms)
    return check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, charge=charge, spin=spin)


def charge_and_spin(atoms: ase.Atoms) -> tuple[int, int]:
    """Total charge and multiplicity from `atoms.info`, default 0 and 1; ValueError if they are not possible."""
    return check_charge_and_spin(atoms.info.get("charge", 0), atoms.info.get("spin", 1))
