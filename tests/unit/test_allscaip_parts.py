"""What AllScAIP is made of: soft ranks, harmonics, rows of tokens, attention over all atoms."""

from __future__ import annotations

import itertools
import math
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
import systems
import torch
from torch import Tensor

from uip.graph.ase_io import structure_from_atoms
from uip.graph.neighbors import build_graph
from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.nn.row_attention import _angular_logits, attend_rows, attend_rows_of_atoms, make_rows, pad_tokens, unpad_tokens
from uip.nn.spherical import SphericalHarmonics, degree_sums, legendre
from uip.ops import attention
from uip.ops.attention import Radial, attend_double_backward, candidate_shifts, nearest_images, sinc
from uip.ops.soft_rank import SoftNearest, envelope_coordinate, log_envelope, smooth_step, soft_rank
from uip.parallel import collectives

SOFT = SoftNearest()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spherical_harmonics(direction: Tensor, degree: int) -> Tensor:
    return SphericalHarmonics(degree)(direction)


def unit(number: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(random(number, 3, seed=seed), dim=1)


# soft ranks


def test_step_is_the_published_one() -> None:
    u = torch.linspace(-0.97, 0.97, 41, dtype=torch.float64)
    up, down = torch.exp(-2 / (1 + u)), torch.exp(-2 / (1 - u))
    torch.testing.assert_close(smooth_step(4 * u), up / (up + down), rtol=1e-12, atol=1e-40)
    ends = smooth_step(torch.tensor([-9.0, -4.0, 0.0, 4.0, 9.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0, 0, 0.5, 1, 1], dtype=torch.float64), rtol=0, atol=1e-40)


def test_rank_counts_nearer_neighbours_and_the_centre() -> None:
    distances = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    ranks = soft_rank(distances, distances.expand(3, 3), SOFT.sigma)
    torch.testing.assert_close(ranks, torch.tensor([1.5, 2.5, 3.5], dtype=torch.float64))


def test_envelope_is_one_at_the_atom_and_vanishes_at_its_end() -> None:
    x = torch.tensor([0.0, 0.5, 0.9, 1.0, 1.1], dtype=torch.float64)
    log_w = log_envelope(x)
    torch.testing.assert_close(log_w[:3], torch.tensor([0.0, -1 / 3, -4.2632], dtype=torch.float64), rtol=1e-4, atol=0)
    assert (torch.exp(log_w[3:]) == 0).all()


@pytest.mark.parametrize("name", ["skewed_cell", "tiny_cell", "slab", "water", "lone_atom"])
def test_bonds_by_brute_force(name: str) -> None:
    """Ranks over all candidates of a row, one by one, against the graph that the model reads."""
    graph = build_graph(structure_from_atoms(systems.ALL[name]()), SOFT.reach, None, SOFT)
    centre, distance = graph.edge_index[0], graph.edge_vec.norm(dim=1)
    rank = torch.full_like(distance, math.inf)
    for atom in range(graph.num_atoms):
        row = torch.nonzero(centre == atom).flatten()
        row = row[distance[row].argsort(stable=True)][: SOFT.nearest - 1]
        assert graph.nearest_edges is not None
        assert graph.nearest_edges[atom][graph.nearest_edges[atom] >= 0].tolist() == row.tolist()
        candidates = torch.cat([distance.new_zeros(1), distance[row]])
        rank[row] = (
            torch.stack([smooth_step((distance[e] - candidates) / SOFT.sigma).sum() for e in row])
            if len(row)
            else rank[row]
        )
    x = envelope_coordinate(rank, rank[graph.reverse_edge], distance, SOFT)
    assert graph.bond_index is not None
    assert graph.bond_index.tolist() == torch.nonzero(x < 1).flatten().tolist()
    assert graph.reverse_bond is not None
    assert torch.equal(graph.bond_index[graph.reverse_bond], graph.reverse_edge[graph.bond_index])
    assert graph.bond_slots is not None
    assert sorted(graph.bond_slots[graph.bond_slots >= 0].tolist()) == list(range(len(graph.bond_index)))


# harmonics


def test_harmonics_obey_the_addition_theorem() -> None:
    u, v = unit(20), unit(20, seed=1)
    sums = (spherical_harmonics(u, 9) * spherical_harmonics(v, 9)) @ degree_sums(9)
    torch.testing.assert_close(sums, torch.stack(legendre((u * v).sum(1), 9), dim=1), rtol=0, atol=1e-13)
    norms = spherical_harmonics(u, 9).square() @ degree_sums(9)
    torch.testing.assert_close(norms, torch.ones(20, 10, dtype=torch.float64))


def test_derivatives_of_harmonics_are_harmonics() -> None:
    """First and second derivatives, of vectors of any length; and the second of a sum over them."""
    weight = random(7, 100, seed=1)

    def total(vectors: Tensor) -> Tensor:
        harmonics = spherical_harmonics(torch.nn.functional.normalize(vectors, dim=1), 9)
        return (harmonics * weight).sum(1)

    vectors = random(7, 3).requires_grad_()
    assert torch.autograd.gradcheck(total, vectors)
    assert torch.autograd.gradgradcheck(total, vectors)


def test_first_harmonics_are_those_of_e3nn() -> None:
    x, y, z = unit(5).unbind(1)
    second = [x * z, x * y, (y * y - (x * x + z * z) / 2) / math.sqrt(3), y * z, (z * z - x * x) / 2]
    expected = torch.stack([torch.ones_like(x), x, y, z, *(math.sqrt(3) * part for part in second)], dim=1)
    torch.testing.assert_close(spherical_harmonics(torch.stack([x, y, z], 1), 2), expected)


# rows of tokens


def rows_of(num_degrees: int = 0) -> tuple[int, object]:
    """Rows of 0, 2 and 3 bonds."""
    slots = torch.tensor([[-1, -1, -1], [0, 1, -1], [2, 3, 4]])
    return 8, make_rows(-random(5).abs(), unit(5), slots, num_degrees)


def test_tokens_keep_their_place() -> None:
    number, rows = rows_of()
    x = random(number, 4)
    table = pad_tokens(x, rows.tokens, rows.slots, rows.filled)
    assert torch.equal(unpad_tokens(table, rows.tokens, rows.slots, rows.filled), x)
    assert torch.equal(table.view(3, 4, 4)[1, :3], x[[1, 3, 4]])


@pytest.mark.parametrize("num_degrees", [0, 3])
def test_row_attention_has_derivatives_of_second_order(num_degrees: int) -> None:
    number, rows = rows_of(num_degrees)
    x = random(number, 18).requires_grad_()
    context = attend_rows(x, rows, 2, (1, 1, 1))
    assert torch.autograd.gradcheck(lambda x: attend_rows(x, rows, 2, (1, 1, 1)), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: attend_rows(x, rows, 2, (1, 1, 1)), x, fast_mode=True)
    torch.testing.assert_close(attend_rows_of_atoms(x[:3, :6], x[:, 6:], rows, 2, (1, 1, 1)), context[:3])


def test_angular_logits_are_products_of_repeated_channels() -> None:
    """Channels repeated 2 l + 1 times and multiplied with Y_lm of their bonds, as the paper defines them."""
    _, rows = rows_of(3)
    q, k = random(6, 4, 4), random(6, 4, 4, seed=1)
    logits = _angular_logits(q, k, rows.legendre, 2, (2, 1, 1))
    harmonics = torch.cat([torch.zeros(3, 9, dtype=torch.float64), spherical_harmonics(unit(5), 2)])
    harmonics[:, 0] = 1.0
    table = harmonics[rows.tokens].view(3, 4, 9).repeat_interleave(2, dim=0)
    expected = torch.zeros_like(logits)
    for channel, degree in enumerate((0, 0, 1, 2)):
        y = table[:, :, degree**2 : (degree + 1) ** 2]
        a, b = q[:, :, channel : channel + 1] * y, k[:, :, channel : channel + 1] * y
        expected += a @ b.mT
    torch.testing.assert_close(logits, expected)


# attention over all atoms


def radial_of(num_atoms: int, cell: Tensor, pbc: tuple[bool, bool, bool]) -> Radial:
    cells, periodic = torch.stack([cell, cell]), torch.tensor([pbc, (False, False, False)])
    strain = torch.zeros(num_atoms, 3, 3, dtype=torch.float64, requires_grad=True)
    return Radial(random(2, 32), (4 * random(num_atoms, 3, seed=5)).requires_grad_(), strain, cells, periodic)


SKEWED = torch.tensor([[4.0, 0.5, 0.0], [2.9, 3.0, 0.4], [0.3, -1.0, 5.0]], dtype=torch.float64)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, True), (True, False, True)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_op_agrees_with_the_plain_form(pbc: tuple[bool, bool, bool], biased: bool) -> None:
    graph_index = torch.tensor([0] * 5 + [1] * 3)
    q, k, v = (random(8, 6, seed=seed).requires_grad_() for seed in range(3))
    radial = radial_of(8, SKEWED, pbc) if biased else None
    variables = [q, k, v] + ([radial.positions, radial.strain] if radial else [])
    seed = random(8, 6, seed=9)
    results = []
    for attend in (collectives.attend, attend_double_backward):
        out = attend(q, k, v, graph_index, 2, radial)
        results.append([out, *torch.autograd.grad(out, variables, seed)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_plain_form_has_second_derivatives_and_the_op_refuses_them() -> None:
    graph_index = torch.zeros(4, dtype=torch.int64)
    inputs = [random(4, 4, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradgradcheck(
        lambda q, k, v: attend_double_backward(q, k, v, graph_index, 2), inputs, fast_mode=True
    )
    out = collectives.attend(*inputs, graph_index, 2)
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        gradient.sum().backward()


def variables_of(biased: bool, num_atoms: int = 7, pbc: tuple[bool, bool, bool] = (True, True, True)) -> list[Tensor]:
    """q, k, v; with a bias, also positions, strain and weight."""
    variables = [random(num_atoms, 4, seed=seed) for seed in range(3)]
    if biased:
        radial = radial_of(num_atoms, SKEWED, pbc)
        assert radial.strain is not None
        variables += [radial.positions, 0.01 * random(num_atoms, 3, 3, seed=7), radial.weight]
    return [variable.detach().requires_grad_() for variable in variables]


def attend_two_graphs(q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> Tensor:
    """`attend_double_backward` of the first atoms in a skewed cell and of the last two in open space."""
    graph_index = torch.tensor([0] * (q.shape[0] - 2) + [1] * 2)
    if not others:
        return attend_double_backward(q, k, v, graph_index, 2)
    positions, strain, weight = others
    radial = replace(radial_of(q.shape[0], SKEWED, (True, True, True)), positions=positions, strain=strain)
    return attend_double_backward(q, k, v, graph_index, 2, replace(radial, weight=weight))


@pytest.mark.parametrize("biased", [False, True])
def test_tiles_have_first_and_second_derivatives(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TILE", 2 * 5 * (34 if biased else 2))  # two rows of queries, and one that is left
    variables = variables_of(biased)
    assert torch.autograd.gradcheck(attend_two_graphs, variables, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend_two_graphs, variables, fast_mode=True)


@pytest.mark.parametrize("biased", [False, True])
def test_tiles_agree_with_the_whole(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Result, gradient, and gradient of a function of the gradient, as of a loss of energy and forces."""
    variables, results = variables_of(biased, num_atoms=19), []
    for tile in (attention.TILE, 3 * 17 * (34 if biased else 2)):
        monkeypatch.setattr(attention, "TILE", tile)
        out = attend_two_graphs(*variables)
        first = torch.autograd.grad(out.tanh().sum(), variables, create_graph=True)
        loss = out.square().sum() + sum(gradient.sin().sum() for gradient in first)
        results.append([out, *first, *torch.autograd.grad(loss, variables)])
    for whole, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, whole, rtol=1e-10, atol=1e-12)


def test_tiles_refuse_a_third_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TILE", 20)
    variables = variables_of(biased=False)
    first = torch.autograd.grad(attend_two_graphs(*variables).sum(), variables[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"at most twice, .* `create_graph=True`; differentiate the function itself"):
        torch.autograd.grad(first[0].sum(), variables[0], create_graph=True)


@dataclass(eq=False)
class Held:
    """A tensor, for as long as autograd holds on to it."""

    tensor: Tensor


def activation_budget(num_atoms: int, biased: bool) -> int:
    """What is held for a second derivative once the first is there, each storage once."""
    held: weakref.WeakSet[Held] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Held:
        held.add(kept := Held(tensor.detach()))
        return kept

    variables = variables_of(biased, num_atoms)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        out = attend_two_graphs(*variables)
        first = torch.autograd.grad(out.square().sum(), variables, create_graph=True)
        storages = [kept.tensor.untyped_storage() for kept in held]
        del out, first
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("biased", [False, True])
def test_tiles_keep_what_grows_with_the_number_of_atoms(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (40, 80, 160)
    whole = [activation_budget(size, biased) for size in sizes]
    monkeypatch.setattr(attention, "TILE", 400 * (34 if biased else 2))
    tiled = [activation_budget(size, biased) for size in sizes]
    assert whole[2] - whole[1] > 3 * (whole[1] - whole[0])
    assert tiled[2] - tiled[1] < 2.3 * (tiled[1] - tiled[0])
    assert tiled[2] < whole[2] / 10, (tiled, whole)


def test_no_atoms_and_one_atom() -> None:
    x = random(1, 4)
    index = torch.zeros(1, dtype=torch.int64)
    torch.testing.assert_close(collectives.attend(x, x, x, index, 2), x)
    assert collectives.attend(x[:0], x[:0], x[:0], index[:0], 2).shape == (0, 4)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False)])
def test_nearest_images_by_brute_force(pbc: tuple[bool, bool, bool]) -> None:
    generator = np.random.default_rng(3)
    for _ in range(10):
        cell = torch.from_numpy(generator.normal(size=(3, 3)) * 3)
        vectors = 9 * random(50, 3, seed=1)
        ranges = [range(-9, 10) if periodic else (0,) for periodic in pbc]
        numbers = torch.tensor(list(itertools.product(*ranges)), dtype=torch.float64)
        lattice = cell * torch.tensor(pbc).unsqueeze(1)
        if np.linalg.cond(cell.numpy()) > 8:
            continue  # nine cells are not enough to be sure
        start = vectors - torch.round(vectors @ torch.linalg.pinv(lattice)) @ lattice
        least = (start.unsqueeze(1) + numbers @ cell).norm(dim=2).min(dim=1).values
        found = (vectors + nearest_images(vectors, cell, torch.tensor(pbc))).norm(dim=1)
        torch.testing.assert_close(found, least)


def test_an_orthogonal_cell_needs_no_other_images() -> None:
    cell = torch.diag(torch.tensor([3.0, 5.0, 9.0], dtype=torch.float64))
    assert len(candidate_shifts(cell, torch.tensor([True] * 3))) == 0
    assert len(candidate_shifts(SKEWED, torch.tensor([True] * 3))) > 0


def test_sinc_and_its_slope_at_zero() -> None:
    x = torch.tensor([0.0, 5e-5, 1e-3, 2.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sinc(x), torch.special.sinc(x / math.pi))
    assert torch.isfinite(torch.autograd.grad(sinc(x).sum(), x)[0]).all()


# configurations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"readout": "both"}, "`readout` must be 'gradient' or 'direct', got 'both'"),
        ({"channels": 30, "num_heads": 4}, "multiple of `num_heads`, got 30 and 4"),
        ({"angular": True, "angular_channels": (1, 2)}, "must add up to channels / num_heads = 64, got"),
        ({"radial": True, "node_attention": False}, "it needs `node_attention = true`"),
        ({"sink": True, "node_attention": False}, "`sink` is a key of the all-to-all attention; it needs"),
        ({"element_scale": 0.0}, "`element_scale` must be positive, got 0.0; published: 1e-3"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AllScAIPConfig(**settings)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("sm", 34_127_903), ("md", 85_972_531)],
)
def test_sizes_are_the_published_ones(size: str, parameters: int) -> None:
    from uip.models.allscaip import SIZES

    with torch.device("meta"):
        model = AllScAIP(AllScAIPConfig(**SIZES[size]))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
