"""From ASE atoms to a `Structure`."""

from __future__ import annotations

from collections.abc import Mapping

import ase
import numpy as np

from uip.graph.structure import Structure, check_charge_and_spin, check_structure

WHOLE = 1e-3
"""How far from 1 an occupancy may be."""
ORDER = "choose an ordered structure, or, where the atoms are right as they are, remove 'occupancy' from"


def structure_from_atoms(atoms: ase.Atoms) -> Structure:
    """Checked arrays of an ASE structure; total charge and spin multiplicity from `atoms.info`.

    Raises:
        ValueError: see `check_structure`, and sites that are not one whole atom.
    """
    check_occupancy(atoms)
    charge, spin = charge_and_spin(atoms)
    return check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, charge=charge, spin=spin)


def charge_and_spin(atoms: ase.Atoms) -> tuple[int, int]:
    """Total charge and multiplicity from `atoms.info`, default 0 and 1; ValueError if they are not possible."""
    return check_charge_and_spin(atoms.info.get("charge", 0), atoms.info.get("spin", 1))


def check_occupancy(atoms: ase.Atoms) -> None:
    """Raises ValueError where sites are partly occupied or shared by elements: ASE keeps one element of each."""
    table = atoms.info.get("occupancy")
    for site, shares in table.items() if isinstance(table, Mapping) else ():
        if isinstance(shares, Mapping) and (len(shares) != 1 or abs(sum(shares.values()) - 1.0) > WHOLE):
            found = ", ".join(f"{symbol} {share:g}" for symbol, share in shares.items())
            raise ValueError(f"every site must be one whole atom, but site {site} is {found}; {ORDER} atoms.info")
    column = atoms.arrays.get("occupancy")  # of PDB files, where atoms that were not seen have 0
    if column is not None:
        partial = np.flatnonzero((column > 0.0) & (column < 1.0 - WHOLE))
        if partial.size:
            where = f"atom {partial[0]} has the occupancy {column[partial[0]]:g}"
            raise ValueError(f"every site must be one whole atom, but {where}; {ORDER} atoms.arrays")
