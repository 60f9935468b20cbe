"""Kernels of rows of tokens against the plain layers: sizes, precision, threads, memory, instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from uip.nn.token_layers import Geometry, InferenceOptions, RowAttention
from uip.parallel.library import load_library

load_library()

# channels, heads, channels of a head by degree; without angles, all of them
SIZES = {
    "whole vectors": (32, 2, (8, 4, 4)),
    "one head": (16, 1, (16,)),
    "no whole vectors": (24, 2, (7, 5)),
    "odd": (15, 3, (1, 3, 1)),
    "heads of one channel": (3, 3, (1,)),
    "more than one part of a matrix": (150, 3, (20, 10, 4, 6, 10)),
}
# bonds of each atom: none, as many tokens as a vector has lanes, one more or less, more than one tile
COUNTS = {
    "around vectors": [0, 1, 3, 6, 7, 8, 14, 15, 16, 0, 31],
    "full": [50] * 3,
    "tiles": [9, 0, 21, 30] * 12,
    "no bonds": [0, 0, 0],
}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bond_slots(counts: list[int]) -> Tensor:
    """(N, K)."""
    slots = torch.full((len(counts), max(counts)), -1)
    first = 0
    for atom, count in enumerate(counts):
        slots[atom, :count] = torch.arange(first, first + count)
        first += count
    return slots


def results(
    size: str, counts: list[int], dtype: torch.dtype, *, angular: bool, only_atoms: bool, keep: bool | None = None
) -> list[Tensor]:
    """Tokens and the gradients of a number made of them; `keep` None: of the plain layer."""
    channels, heads, degrees = SIZES[size]
    torch.manual_seed(0)
    layer = RowAttention(channels, heads, degrees, 0.5).double().requires_grad_(False)
    layer.norm.weight.uniform_(0.5, 1.5)
    num_bonds = sum(counts)
    log_weight = (-3.0 * random(num_bonds, seed=1).square()).to(dtype)
    direction = normalize(random(num_bonds, 3, seed=2), dim=1).to(dtype)
    v, t = random(len(counts), channels, seed=3).to(dtype), (2.0 * random(num_bonds, channels, seed=4)).to(dtype)
    variables = [x.requires_grad_() for x in (v, t, log_weight, direction)]
    inference = None if keep is None else InferenceOptions(keep=keep, bfloat16=False)
    geometry = Geometry(
        log_weight, direction, bond_slots(counts), len(degrees) if angular else 0, inference, recompute=False
    )
    layer.to(dtype)
    outputs = [layer.forward_atoms(v, t, geometry)] if only_atoms else list(layer(v, t, geometry))
    seeds = [random(*y.shape, seed=5 + k).to(dtype) for k, y in enumerate(outputs)]
    return [*outputs, *torch.autograd.grad(outputs, variables, seeds, materialize_grads=True)]


def worst_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest error of each result, relative to its largest value (at least 1)."""
    errors = [0.0]
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        if b.numel():
            errors.append(((a.double() - b.double()).abs().max() / max(1.0, b.abs().max().item())).item())
    return max(errors)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("only_atoms", [False, True])
def test_kernels_are_the_plain_layer(size: str, counts: list[int], only_atoms: bool) -> None:
    for angular in (False, True):
        plain = results(size, counts, torch.float64, angular=angular, only_atoms=only_atoms)
        for keep in (False, True):
            found = results(size, counts, torch.float64, angular=angular, only_atoms=only_atoms, keep=keep)
            assert worst_error(found, plain) < 1e-12


def root_mean_square(x: Tensor, exact: Tensor) -> float:
    return (x.double() - exact).square().mean().sqrt().item()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("only_atoms", [False, True])
def test_float32_is_as_good_as_the_plain_layer(size: str, only_atoms: bool) -> None:
    """Root mean square errors, of each result."""
    for angular in (False, True):
        exact, plain, found = (
            results(size, COUNTS["tiles"], dtype, angular=angular, only_atoms=only_atoms, keep=keep)
            for dtype, keep in ((torch.float64, None), (torch.float32, None), (torch.float32, True))
        )
        for a, b, c in zip(found, plain, exact, strict=True):
            if c.numel():
                assert (
                    root_mean_square(a, c) < 1.3 * root_mean_square(b, c) + 1e-8 * root_mean_square(c, 0.0 * c) + 1e-30
                )


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    """torch fills tensors that it does not initialise."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(64).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", ["whole vectors", "odd"])
def test_threads_and_new_memory_change_nothing(size: str) -> None:
    for only_atoms in (False, True):
        for counts in COUNTS.values():
            found = []
            with new_memory_is_nan():
                for threads in (1, 2, 4):
                    torch.set_num_threads(threads)
                    found.append(results(size, counts, torch.float32, angular=True, only_atoms=only_atoms, keep=True))
            torch.set_num_threads(1)
            found.append(results(size, counts, torch.float32, angular=True, only_atoms=only_atoms, keep=True))
            assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(others, found[0], strict=True))
            assert all(x.isfinite().all() for x in found[0])


def test_logits_far_apart_and_what_is_no_number() -> None:
    """Weights that vanish are zero, and a row with a token that is no number has no numbers; others do not change."""
    layer = RowAttention(16, 2, (8,), 0.5).requires_grad_(False)
    t = random(6, 16, seed=0).float()
    options = InferenceOptions(keep=False, bfloat16=False)
    log_weight = torch.tensor([-1e6, -200.0, 0.0, -1e6, -1.0, 0.0])
    geometry = Geometry(log_weight, torch.zeros(6, 3), bond_slots([3, 3]), 0, options, recompute=False)
    v, tokens = layer(torch.ones(2, 16), t, geometry)
    without = Geometry(log_weight[2:3], torch.zeros(1, 3), bond_slots([1, 0]), 0, options, recompute=False)
    torch.testing.assert_close(v[0], layer(torch.ones(2, 16), t[2:3], without)[0][0], rtol=1e-6, atol=1e-6)
    t[0] = torch.nan
    broken, broken_tokens = layer(torch.ones(2, 16), t, geometry)
    assert broken[0].isnan().all()
    assert torch.equal(broken[1], v[1])
    assert torch.equal(broken_tokens[3:], tokens[3:])


def test_slots_must_have_every_bond() -> None:
    layer = RowAttention(16, 2, (8,), 0.5).requires_grad_(False)
    geometry = Geometry(
        torch.zeros(3), torch.zeros(3, 3), bond_slots([2]), 0, InferenceOptions(keep=False, bfloat16=False), False
    )
    with pytest.raises(RuntimeError, match="`bond_slots` must have every bond once, got 2 bonds instead of 3"):
        layer(torch.zeros(1, 16), torch.zeros(3, 16), geometry)


def test_wide_layers_are_the_plain_layer() -> None:
    """Those with more than 640 channels, in tiles of torch's operations; atoms alone in kernels."""
    torch.manual_seed(0)
    layer = RowAttention(656, 2, (328,), 0.5).double().requires_grad_(False)
    v, t = random(2, 656, seed=0), random(5, 656, seed=1)
    geometry = [
        Geometry(-random(5, seed=2).square(), torch.zeros(5, 3).double(), bond_slots([2, 3]), 0, options, False)
        for options in (None, InferenceOptions(keep=True, bfloat16=False))
    ]
    plain, found = (list(layer(v, t, each)) for each in geometry)
    assert worst_error(found, plain) < 1e-12
    plain, found = ([layer.forward_atoms(v, t, each)] for each in geometry)
    assert worst_error(found, plain) < 1e-12


PRINT_ERRORS = """
import torch
import test_row_kernels as here
print(torch.ops.uip.cpu_kernels())
for size in here.SIZES:
    for counts in here.COUNTS.values():
        for only_atoms in (False, True):
            for angular in (False, True):
                how = dict(angular=angular, only_atoms=only_atoms)
                plain = here.results(size, counts, torch.float64, **how)
                print(here.worst_error(here.results(size, counts, torch.float64, **how, keep=True), plain))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["generic", "avx2", "avx512"])
def test_each_instruction_set(kernels: str) -> None:
    names = ["generic", "avx2", "avx512"]
    if names.index(kernels) > names.index(torch.ops.uip.cpu_kernels()):
        pytest.skip(f"this processor has no {kernels}")
    here = Path(__file__).parent
    environment = {**os.environ, "UIP_CPU_KERNELS": kernels, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    run = subprocess.run(
        [sys.executable, "-c", PRINT_ERRORS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=here.parents[1],
    )
    name, *errors = run.stdout.strip().splitlines()
    assert name == kernels
    assert len(errors) == 4 * len(SIZES) * len(COUNTS)
    assert max(map(float, errors)) < 1e-12
