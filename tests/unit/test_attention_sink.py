"""The sink of attention over all atoms: the op and the training form against a softmax with one more key, tiles, and
what a model can learn with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import random_allscaip
from torch import Tensor

from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph, batch
from uip.graph.neighbors import build_graph
from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.models.readout import evaluate
from uip.ops import attention
from uip.ops.attention import Radial, attend_double_backward
from uip.parallel import collectives

torch.set_num_threads(1)  # tensors are tiny: more threads cost more than they bring

SINK = torch.tensor([0.7, -1.3], dtype=torch.float64)
GRAPHS = torch.tensor([0] * 5 + [1] * 3)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def variables_of(biased: bool) -> dict[str, Tensor]:
    """q, k, v (8, 4) of two graphs; with a bias, also fields of `Radial`."""
    variables = {name: random(8, 4, seed=seed) for seed, name in enumerate("qkv")}
    if biased:
        variables |= {"positions": 4 * random(8, 3, seed=5), "strain": 0.01 * random(8, 3, 3, seed=7)}
    return {name: value.requires_grad_() for name, value in variables.items()}


def radial_of(variables: dict[str, Tensor], weight: Tensor | None = None) -> Radial | None:
    if "positions" not in variables:
        return None
    cells, pbc = 5.0 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1), torch.tensor([[True] * 3, [False] * 3])
    weight = random(2, 32, seed=6) if weight is None else weight
    return Radial(weight, variables["positions"], variables["strain"], cells, pbc)


def with_one_more_key(variables: dict[str, Tensor]) -> Tensor:
    """The definition: softmax over N + 1 keys, the last one of value 0 and logit s."""
    parts = []
    for graph, atoms in enumerate((slice(0, 5), slice(5, 8))):
        q, k, v = (variables[name][atoms].view(-1, 2, 2).transpose(0, 1) for name in "qkv")
        logits = q @ k.mT / math.sqrt(2)
        if (radial := radial_of(variables)) is not None:
            logits = logits + radial.of_graph(graph, atoms).bias(slice(None))
        more = torch.cat([logits, SINK.view(2, 1, 1).expand(2, len(v[0]), 1)], dim=2)
        values = torch.cat([v, torch.zeros(2, 1, 2, dtype=v.dtype)], dim=1)
        parts.append((torch.softmax(more, dim=2) @ values).transpose(0, 1).flatten(1))
    return torch.cat(parts)


@pytest.mark.parametrize("biased", [False, True])
def test_both_forms_are_a_softmax_with_one_more_key(biased: bool) -> None:
    variables, seed = variables_of(biased), random(8, 4, seed=9)
    if biased:
        variables["strain"].data.zero_()  # the op does not read its values
    outs = [with_one_more_key(variables)]
    for attend in (collectives.attend, attend_double_backward):
        outs.append(attend(*(variables[name] for name in "qkv"), GRAPHS, 2, radial_of(variables), SINK))
    expected, *found = ([out, *torch.autograd.grad(out, list(variables.values()), seed)] for out in outs)
    for result in found:
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_tiles_have_the_derivatives_of_the_whole(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second ones, also with respect to the sink, which training needs."""
    variables, sink = variables_of(biased), SINK.clone().requires_grad_()
    weight = random(2, 32, seed=6).requires_grad_()
    inputs, results = [*variables.values(), *([weight] if biased else []), sink], []
    for tile in (attention.TILE, 2 * 5 * (34 if biased else 2)):  # two rows of queries, and one that is left
        monkeypatch.setattr(attention, "TILE", tile)
        radial = radial_of(variables, weight)
        out = attend_double_backward(*(variables[name] for name in "qkv"), GRAPHS, 2, radial, sink)
        first = torch.autograd.grad(out.tanh().sum(), inputs, create_graph=True)
        loss = out.square().sum() + sum(gradient.sin().sum() for gradient in first)
        results.append([out, *first, *torch.autograd.grad(loss, inputs)])
    for whole, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, whole, rtol=1e-10, atol=1e-12)


def test_a_sink_far_below_the_logits_changes_nothing_and_one_far_above_takes_all() -> None:
    q, k, v = (random(8, 4, seed=seed) for seed in range(3))
    for attend in (collectives.attend, attend_double_backward):
        plain = attend(q, k, v, GRAPHS, 2)
        torch.testing.assert_close(attend(q, k, v, GRAPHS, 2, None, SINK - 100.0), plain)
        torch.testing.assert_close(attend(q, k, v, GRAPHS, 2, None, SINK + 100.0), torch.zeros_like(plain))


def test_no_atoms() -> None:
    none = torch.zeros(0, 4, dtype=torch.float64)
    assert collectives.attend(none, none, none, GRAPHS[:0], 2, None, SINK).shape == (0, 4)


def pair_of(distance: float) -> Atoms:
    return Atoms("Na2", [[0, 0, 0], [0.6 * distance, 0, 0.8 * distance]])


def graph_of(distances: np.ndarray, model: AllScAIP) -> Graph:
    graphs = [
        build_graph(structure_from_atoms(pair_of(distance)), model.cutoff, model.bond_cutoff, model.soft)
        for distance in distances
    ]
    return batch(graphs)


def test_without_a_sink_like_ions_beyond_the_cutoff_have_no_force() -> None:
    """Their tokens are equal, and so is every average of them."""
    largest = []
    for sink in (False, True):
        model = random_allscaip(radial=True, sink=sink)
        largest.append(float(evaluate(model, graph_of(np.array([8.0, 14.0]), model)).forces.abs().max()))
    assert largest[0] < 1e-12
    assert largest[1] > 1e-4


def test_both_modes_of_a_model_agree() -> None:
    """Training and inference have implementations of their own."""
    model = random_allscaip(radial=True, sink=True)
    graph = graph_of(np.array([3.0, 8.0]), model)
    ours = evaluate(model, graph)
    theirs = evaluate(model.train(), graph, training=True)
    torch.testing.assert_close(theirs.energy, ours.energy)
    torch.testing.assert_close(theirs.forces, ours.forces)


@pytest.mark.slow  # 150 steps
def test_forces_between_like_ions_can_be_fitted() -> None:
    """14.4 eV A / r^2 from 7 to 14 A, beyond the cutoff: errors are below a fifth of those of the mean force."""
    torch.manual_seed(0)
    config = AllScAIPConfig(num_elements=11, channels=8, num_layers=1, num_heads=2, num_radial=8, radial=True)
    model = AllScAIP(replace(config, sink=True, element_scale=1.0)).double().train()
    distances = np.linspace(7.0, 14.0, 8)
    graph, vectors = graph_of(distances, model), np.stack([pair_of(d).positions[1] for d in distances])
    force = torch.tensor(14.4 * vectors / distances[:, None] ** 3, dtype=torch.float64)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        error = evaluate(model, graph, training=True).forces[1::2] - force
        error.square().mean().backward()
        optimiser.step()
    strength = force.norm(dim=1)
    assert error.norm(dim=1).mean() < (strength - strength.mean()).abs().mean() / 5
