"""Neighbour lists against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import systems
from ase import Atoms

from uip.graph.ase_io import structure_from_atoms
from uip.graph.neighbors import NeighborList, build_graph
from uip.graph.structure import Structure, check_structure, complete_cell


def brute_force(structure: Structure, cutoff: float) -> set[tuple[int, int, int, int, int]]:
    cell = complete_cell(structure.cell, structure.pbc)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    fractional = structure.positions @ np.linalg.inv(cell)
    spread = np.ceil(np.ptp(fractional, axis=0))
    reach = [range(-n, n + 1) for n in ((np.ceil(cutoff / heights) + spread) * structure.pbc).astype(int)]
    found = set()
    for i, j in itertools.product(range(len(structure.positions)), repeat=2):
        for shift in itertools.product(*reach):
            distance = np.linalg.norm(structure.positions[j] - structure.positions[i] + np.array(shift) @ cell)
            if distance < cutoff and (i != j or any(shift)):
                found.add((i, j, *shift))
    return found


@pytest.mark.parametrize("name", sorted(systems.ALL))
def test_edges_are_those_of_brute_force(name: str) -> None:
    structure = structure_from_atoms(systems.ALL[name]())
    structure = Structure(
        structure.atomic_numbers, structure.positions - structure.positions.mean(0), structure.cell, structure.pbc
    )
    graph = build_graph(structure, 4.0)
    edges = {(*e, *s) for e, s in zip(graph.edge_index.T.tolist(), graph.shifts.tolist(), strict=True)}
    assert len(edges) == graph.num_edges
    assert edges == brute_force(structure, 4.0)


@pytest.mark.parametrize("name", sorted(systems.ALL))
def test_order_reverse_and_angles(name: str) -> None:
    atoms = systems.ALL[name]()
    graph = build_graph(structure_from_atoms(atoms), 6.0, 3.0)
    i, j = graph.edge_index.numpy()
    reverse = graph.reverse_edge.numpy()
    vectors = graph.edge_vec.numpy()
    assert (np.diff(i) >= 0).all()
    assert (i[reverse] == j).all()
    assert (vectors[reverse] == -vectors).all(), "opposite directions must agree to the last bit"
    assert (graph.shifts[reverse] == -graph.shifts).all()
    assert (reverse[reverse] == np.arange(len(i))).all()
    bonds = graph.bond_index.numpy()
    assert (bonds == np.flatnonzero(np.linalg.norm(vectors, axis=1) < 3.0)).all()
    assert (bonds[graph.reverse_bond] == reverse[bonds]).all()
    first, second = graph.angle_index.numpy()
    expected = [(a, b) for a in range(len(bonds)) for b in range(len(bonds)) if a != b and i[bonds[a]] == i[bonds[b]]]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_skin_changes_nothing() -> None:
    """A list that is reused gives the same graph as a new one, while atoms and cell move; and it is reused."""
    atoms = systems.si_rattled().repeat(2)
    kept = NeighborList(5.0, 3.0, skin=0.8)
    generator = np.random.default_rng(0)
    for step in range(40):
        atoms.positions += 0.04 * generator.standard_normal(atoms.positions.shape)
        atoms.set_cell(atoms.cell.array * (1.0 + 0.002 * generator.standard_normal()), scale_atoms=True)
        if step == 20:
            atoms.positions[3] += atoms.cell[1]
        structure = structure_from_atoms(atoms)
        reused, fresh = kept.build(structure), build_graph(structure, 5.0, 3.0)
        key = lambda graph: {  # noqa: E731
            (*e, *s) for e, s in zip(graph.edge_index.T.tolist(), graph.shifts.tolist(), strict=True)
        }
        assert key(reused) == key(fresh)
        assert reused.num_angles == fresh.num_angles
    assert 1 < kept.num_searches < 30


def test_skin_notices_another_structure() -> None:
    kept = NeighborList(5.0, skin=1.0)
    kept.build(structure_from_atoms(systems.nio()))
    assert kept.build(structure_from_atoms(systems.water())).num_edges == 6
    slab = systems.slab()
    periodic = kept.build(structure_from_atoms(slab)).num_edges
    slab.pbc = False
    assert kept.build(structure_from_atoms(slab)).num_edges < periodic


def test_one_list_for_lists_and_arrays() -> None:
    cell = [[0, 2.7, 2.7], [2.7, 0, 2.7], [2.7, 2.7, 0]]
    structure = check_structure([14, 14], [[0, 0, 0], [1.35, 1.35, 1.35]], cell, True)
    assert build_graph(structure, 3.0).num_edges == 8
    assert build_graph(check_structure([1], [[0, 0, 0]]), 3.0).num_edges == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:0], "at least one atom, got none"),
        (lambda a: _moved(a, 3, np.nan), "those of 1 of 8 atoms are not, first atom 3"),
        (lambda a: _moved(a, 2, np.inf), "those of 1 of 8 atoms are not, first atom 2"),
        (lambda a: _celled(a, [0, 0, 0]), "independent vectors"),
        (lambda a: _celled(a, [[4, 0, 0], [0, 4, 0], [4, 4, 0]]), "independent vectors"),
        (lambda a: _celled(a, [[np.nan, 0, 0], [0, 4, 0], [0, 0, 4]]), "finite \\(3, 3\\) matrix"),
    ],
)
def test_bad_structures(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        structure_from_atoms(change(systems.si_rattled()))


def _moved(atoms: Atoms, index: int, value: float) -> Atoms:
    atoms.positions[index, 1] = value
    return atoms


def _celled(atoms: Atoms, cell: list) -> Atoms:
    atoms.cell = cell if np.ndim(cell) == 2 else np.diag(cell)
    return atoms


def test_overlapping_atoms() -> None:
    atoms = systems.si_rattled()
    atoms.positions[5] = atoms.positions[2] + atoms.cell[0] + 1e-3
    with pytest.raises(ValueError, match=r"atoms 2 and 5 are 0\.00173 A apart; remove duplicates"):
        build_graph(structure_from_atoms(atoms), 6.0)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"`positions` must have shape \(2, 3\)"):
        check_structure([1, 1], [[0, 0, 0]])


@pytest.mark.parametrize(("charge", "spin"), [(101, 1), (-101, 1), (0, 101), (0, -1)])
def test_charge_and_spin_have_limits(charge: int, spin: int) -> None:
    with pytest.raises(ValueError, match=r"must lie within \+-100 e and the multiplicity within 0 .. 100"):
        check_structure([8], [[0, 0, 0]], charge=charge, spin=spin)
