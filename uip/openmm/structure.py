"""Crystals and molecules for OpenMM, from ASE."""

from __future__ import annotations

import ase
import numpy as np
from openmm import Vec3, app, unit
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from uip.graph.ase_io import check_occupancy
from uip.units import A_TO_NM


def topology_from_atoms(atoms: ase.Atoms) -> tuple[app.Topology, unit.Quantity]:
    """A Topology (one residue, no bonds) and positions (N, 3) of a structure, rotated to the form of OpenMM's boxes:
    a along x, b in the xy plane, lattice vectors reduced.

    Raises:
        ValueError: periodic along some directions only, or a left-handed cell: OpenMM has neither; sites that are
            not one whole atom.
    """
    check_occupancy(atoms)
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(f"OpenMM's boxes are periodic along all directions or none, got pbc {atoms.pbc.tolist()}")
    if atoms.pbc.all() and np.linalg.det(atoms.cell.array) <= 0:
        raise ValueError("OpenMM's boxes are right-handed, but the cell is not; exchange two of its vectors")
    topology = app.Topology()
    residue = topology.addResidue("UIP", topology.addChain())
    for atom in atoms:
        topology.addAtom(atom.symbol, app.Element.getByAtomicNumber(int(atom.number)), residue)
    positions = atoms.positions
    if atoms.pbc.all():
        cell, turn = atoms.cell.standard_form()
        positions = positions @ turn.T
        vectors = [Vec3(*(row * A_TO_NM)) for row in cell.array]
        topology.setPeriodicBoxVectors(reducePeriodicBoxVectors(vectors * unit.nanometer))
    return topology, unit.Quantity(positions * A_TO_NM, unit.nanometer)
