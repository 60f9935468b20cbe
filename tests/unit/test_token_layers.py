"""Layers of tokens: what inference computes tile by tile in libuip is what training computes plainly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from uip.nn.token_layers import FeedForward, Geometry, InferenceOptions, RowAttention
from uip.parallel.library import load_library

HEADS, DEGREES, CHANNELS = 2, (3, 2, 3), 16
EXACT = InferenceOptions(keep=False, bfloat16=False)


@pytest.fixture(autouse=True)
def _library() -> None:
    load_library()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bonds_of(counts: list[int]) -> Tensor:
    """(N, K): atoms with so many bonds each."""
    slots = torch.full((len(counts), max([*counts, 1])), -1)
    bond = iter(range(sum(counts)))
    for atom, count in enumerate(counts):
        slots[atom, :count] = torch.tensor([next(bond) for _ in range(count)], dtype=torch.int64)
    return slots


def geometry_of(
    counts: list[int], *, angular: bool, inference: InferenceOptions | None, recompute: bool = False
) -> Geometry:
    num_bonds = sum(counts)
    log_weight = (-random(num_bonds, seed=1).square()).requires_grad_()
    direction = torch.nn.functional.normalize(random(num_bonds, 3, seed=2), dim=1).requires_grad_()
    return Geometry(log_weight, direction, bonds_of(counts), len(DEGREES) if angular else 0, inference, recompute)


def attention() -> RowAttention:
    torch.manual_seed(0)
    layer = RowAttention(CHANNELS, HEADS, DEGREES, 0.5).double().requires_grad_(False)
    layer.norm.weight.uniform_(0.5, 1.5)
    return layer


def feed_forward() -> FeedForward:
    torch.manual_seed(0)
    layer = FeedForward(CHANNELS, 0.5).double().requires_grad_(False)
    layer.norm.weight.uniform_(0.5, 1.5)
    return layer


def tokens_of(counts: list[int]) -> tuple[Tensor, Tensor]:
    v, t = random(len(counts), CHANNELS, seed=3), random(sum(counts), CHANNELS, seed=4)
    return v.requires_grad_(), t.requires_grad_()


def results(counts: list[int], geometry: Geometry, *, only_atoms: bool) -> list[Tensor]:
    """Tokens, and the gradients of one number made of them."""
    v, t = tokens_of(counts)
    layer = attention()
    outputs = [layer.forward_atoms(v, t, geometry)] if only_atoms else list(layer(v, t, geometry))
    loss = sum((y * random(*y.shape, seed=5 + k)).sum() for k, y in enumerate(outputs))
    variables = [v, t, geometry.log_weight, geometry.direction]
    return [*outputs, *torch.autograd.grad(loss, variables, materialize_grads=True)]


# a row without bonds, rows of different lengths, and more tokens than one tile has
SHAPES = {"few": [3, 0, 4, 1], "no bonds": [0, 0], "no atoms": [], "tiles": [7, 30, 0, 12] * 40}


@pytest.mark.parametrize("counts", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("angular", [False, True])
@pytest.mark.parametrize("only_atoms", [False, True])
def test_rows_agree_with_the_plain_form(counts: list[int], angular: bool, only_atoms: bool) -> None:
    torch.set_num_threads(1)  # a tile is 512 tokens for each thread
    plain = results(counts, geometry_of(counts, angular=angular, inference=None), only_atoms=only_atoms)
    for keep in (False, True):
        how = InferenceOptions(keep=keep, bfloat16=False)
        tiled = results(counts, geometry_of(counts, angular=angular, inference=how), only_atoms=only_atoms)
        torch.testing.assert_close(tiled, plain, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("counts", [[3, 0, 4, 1], [7, 9] * 20], ids=["few", "many"])
@pytest.mark.parametrize("angular", [False, True])
def test_plain_rows_are_the_same_when_recomputed(counts: list[int], angular: bool) -> None:
    kept = results(counts, geometry_of(counts, angular=angular, inference=None), only_atoms=False)
    geometry = geometry_of(counts, angular=angular, inference=None, recompute=True)
    torch.testing.assert_close(results(counts, geometry, only_atoms=False), kept, rtol=0, atol=0)


@pytest.mark.parametrize("num_rows", [0, 1, 1500])
def test_feed_forward_agrees_with_the_plain_form(num_rows: int) -> None:
    torch.set_num_threads(1)
    layer, x, seed = feed_forward(), random(num_rows, CHANNELS, seed=0), random(num_rows, CHANNELS, seed=1)
    answers = []
    for inference in (None, EXACT):
        variable = x.clone().requires_grad_()
        y = layer(variable, geometry_of([1], angular=False, inference=inference))
        answers.append([y, *torch.autograd.grad(y, variable, seed)])
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-11, atol=1e-12)


def test_bfloat16_is_as_good_as_its_digits() -> None:
    """Eight bits: a few per thousand of the largest value; tokens stay in float32."""
    counts = SHAPES["tiles"]
    geometry = geometry_of(counts, angular=True, inference=None)
    v, t = tokens_of(counts)
    layer = attention()
    exact = layer(v, t, geometry)
    half = Geometry(
        geometry.log_weight.detach().float(), geometry.direction.detach().float(), geometry.bond_slots,
        geometry.num_degrees, InferenceOptions(keep=True, bfloat16=True), recompute=False,
    )  # fmt: skip
    found = layer.float()(v.float(), t.float(), half)
    for a, b, x in zip(found, exact, (v, t), strict=True):
        assert a.dtype == torch.float32
        change = (b - x).abs().max()
        error = (a - b).abs().max() / change
        assert 1e-5 < error < 2e-2


def test_bfloat16_of_float64_is_refused() -> None:
    layer, x = feed_forward(), random(3, CHANNELS, seed=0)
    half = geometry_of([1], angular=False, inference=InferenceOptions(keep=False, bfloat16=True))
    with pytest.raises(RuntimeError, match="with bfloat16, tokens must be float32, got Double"):
        layer(x, half)


def test_weights_and_second_derivatives_are_refused() -> None:
    """Never a silent zero."""
    layer, x = feed_forward(), random(3, CHANNELS, seed=0).requires_grad_()
    geometry = geometry_of([1], angular=False, inference=EXACT)
    (gradient,) = torch.autograd.grad(layer(x, geometry).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="feed_forward_backward"):
        torch.autograd.grad(gradient.sum(), x)
    with pytest.raises(RuntimeError, match="weights must be constants here"):
        layer.requires_grad_(True)(x, geometry)


def test_a_derivative_finds_what_was_kept() -> None:
    """Only queries, keys and values are kept beside what enters the layer, and only when asked for."""
    counts = SHAPES["tiles"]
    num_tokens = len(counts) + sum(counts)
    sizes = {}
    for keep in (False, True):
        geometry = geometry_of(counts, angular=False, inference=InferenceOptions(keep=keep, bfloat16=False))
        kept: dict[int, int] = {}

        def pack(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            attention()(*tokens_of(counts), geometry)
        sizes[keep] = sum(kept.values())
    assert sizes[True] - sizes[False] == 8 * num_tokens * 3 * CHANNELS
