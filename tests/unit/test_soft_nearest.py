"""Bonds as the engines choose them (csrc/soft_nearest.cpp) are those of `uip.graph.nearest`."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from uip.graph.ase_io import structure_from_atoms
from uip.graph.nearest import nearest_edges, select_bonds
from uip.graph.neighbors import build_graph
from uip.ops.soft_rank import SoftNearest
from uip.parallel.library import load_library


def crowd(num_atoms: int, size: float, seed: int) -> Atoms:
    """Atoms at random in a periodic box, at least 0.8 A apart."""
    rng = np.random.default_rng(seed)
    positions: list[np.ndarray] = []
    while len(positions) < num_atoms:
        point = rng.uniform(0.0, size, 3)
        shifts = [(p - point) - size * np.round((p - point) / size) for p in positions]
        if all(np.linalg.norm(shift) > 0.8 for shift in shifts):
            positions.append(point)
    return Atoms(f"H{num_atoms}", positions, cell=[size] * 3, pbc=True)


STRUCTURES = {
    "dense": crowd(60, 7.0, 0),
    "sparse": crowd(40, 16.0, 1),
    "crystal": bulk("Cu", "fcc", a=3.6, cubic=True),  # many neighbours at one distance: ties
    "one atom in a cell": bulk("Cu", "sc", a=2.4),
    "molecule": molecule("CH3CH2OH"),
    "two atoms": Atoms("H2", [[0, 0, 0], [6.4, 0, 0]]),  # an edge that is no bond
    "no edges": Atoms("H2", [[0, 0, 0], [9.0, 0, 0]]),
    "one atom": Atoms("H"),
}
SOFT = {"published": SoftNearest(), "few": SoftNearest(k=5.0, nearest=9, cutoff=4.0, sigma=0.3, tau=0.2)}


@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("name", STRUCTURES)
def test_engines_choose_the_same_bonds(name: str, soft: str) -> None:
    load_library()
    settings = SOFT[soft]
    graph = build_graph(structure_from_atoms(STRUCTURES[name]), settings.reach)
    centre, num_atoms = graph.edge_index[0].clone(), graph.num_atoms
    distance = torch.linalg.vector_norm(graph.edge_vec, dim=1)
    nearest, bonds = torch.ops.uip.soft_bonds(centre, graph.reverse_edge, distance, num_atoms, *astuple(settings))
    wanted = nearest_edges(centre.numpy(), distance.numpy(), num_atoms, settings)
    assert np.array_equal(nearest.numpy(), wanted)
    chosen = select_bonds(centre.numpy(), graph.reverse_edge.numpy(), distance.numpy(), wanted, settings)
    assert np.array_equal(bonds.numpy(), chosen)
    if name in ("dense", "sparse"):
        assert 0 < chosen.size < distance.numel()
