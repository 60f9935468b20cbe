"""Batching and its offsets; edge gradients to forces."""

from __future__ import annotations

from dataclasses import fields

import pytest
import systems
import torch

from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph, batch, edge_vectors
from uip.graph.forces import forces_from_edge_grad, strain_gradient
from uip.graph.neighbors import build_graph
from uip.schema import FIELDS, INPUTS


def graphs() -> list:
    return [build_graph(structure_from_atoms(make()), 6.0, 3.0) for make in systems.ALL.values()]


def test_a_batch_holds_its_graphs() -> None:
    parts = graphs()
    joined = batch(parts)
    start = dict.fromkeys("RNESAB", 0)
    for part in parts:
        counts = {FIELDS[n].letter: v.shape[FIELDS[n].batch_axis] for n, v in part.tensors().items()}
        for name, value in part.tensors().items():
            field = FIELDS[name]
            rows = joined.tensors()[name].narrow(field.batch_axis, start[field.letter], counts[field.letter])
            assert torch.equal(rows - start[field.indexes] if field.indexes else rows, value), name
        start = {letter: start[letter] + counts[letter] for letter in start}
    assert joined.num_graphs == len(parts)
    assert joined.atoms_per_graph.tolist() == [part.num_atoms for part in parts]


def test_edge_vectors_agree_with_the_list() -> None:
    joined = batch(graphs())
    vectors = edge_vectors(joined.positions, joined.cell, joined.edge_index, joined.shifts, joined.graph_index)
    torch.testing.assert_close(vectors, joined.edge_vec, rtol=0, atol=1e-12)


def test_scatter_agrees_with_autograd() -> None:
    """Forces and strain derivative of a made-up energy of edge vectors."""
    joined = batch(graphs()[:4])
    positions = joined.positions.clone().requires_grad_()
    strain = torch.zeros(joined.num_graphs, 3, 3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    strained = torch.einsum("nk,nkl->nl", positions, deformation[joined.graph_index])
    vectors = edge_vectors(strained, joined.cell @ deformation, joined.edge_index, joined.shifts, joined.graph_index)
    weights = torch.arange(joined.num_edges, dtype=torch.float64).cos().unsqueeze(1)

    def energy(v: torch.Tensor) -> torch.Tensor:
        return (weights * v.sin() * v.roll(1, dims=1)).sum()

    by_positions, by_strain = torch.autograd.grad(energy(vectors), [positions, strain])
    leaf = joined.edge_vec.clone().requires_grad_()
    (edge_grad,) = torch.autograd.grad(energy(leaf), leaf)
    forces = forces_from_edge_grad(edge_grad, joined.edge_index, joined.num_atoms)
    torch.testing.assert_close(forces, -by_positions, rtol=1e-10, atol=1e-9)
    edge_graph = joined.graph_index[joined.edge_index[0]]
    got = strain_gradient(joined.edge_vec, edge_grad, edge_graph, joined.num_graphs)
    torch.testing.assert_close(got, by_strain, rtol=1e-10, atol=1e-8)


def test_batch_refuses() -> None:
    with pytest.raises(ValueError, match="at least one graph"):
        batch([])
    water = structure_from_atoms(systems.water())
    with pytest.raises(ValueError, match="same fields"):
        batch([build_graph(water, 6.0), build_graph(water, 6.0, 3.0)])


def test_every_input_is_a_field_of_graph() -> None:
    assert {field.name for field in INPUTS} == {field.name for field in fields(Graph)}


def test_to_casts_real_tensors_only() -> None:
    graph = graphs()[0].to(dtype=torch.float32)
    for name, value in graph.tensors().items():
        assert (value.dtype == torch.float32) == (FIELDS[name].dtype == "real"), name


def test_the_virial_of_one_structure_is_summed_in_float64() -> None:
    """Terms that cancel to one part in a million."""
    torch.manual_seed(0)
    vectors, gradients = torch.randn(4000, 3), torch.randn(4000, 3)
    vectors, gradients = torch.cat([vectors, -vectors]), torch.cat([gradients, gradients * (1.0 + 1e-6)])
    edge_graph = torch.zeros(8000, dtype=torch.int64)
    got = strain_gradient(vectors, gradients, edge_graph, 1)
    expected = strain_gradient(vectors.double(), gradients.double(), edge_graph, 1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), rtol=1e-6, atol=1e-9)
