"""Neighbourhood attention by Triton kernels, in the interpreter, against its plain form in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_same, random
from torch import Tensor

from uip.nn.row_attention import attend_rows, attend_rows_of_atoms, make_rows
from uip.ops.kernels import kernels_on_cpu

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.9.0")

SLOTS = torch.full((3, 17), -1)
SLOTS[0], SLOTS[2, :3] = torch.arange(2, 19), torch.tensor([1, -1, 0])
"""Bonds of three atoms: more than a block of queries, none, and in any order with gaps."""
NUM_BONDS = 19
HEADS, SIZE = 2, 3


def check(dtype: torch.dtype, order: int, *, own: bool) -> None:
    num_atoms, num_bonds, channels = 3, NUM_BONDS, HEADS * SIZE

    def attend(query: Tensor, x: Tensor, log_weight: Tensor) -> Tensor:
        rows = make_rows(log_weight, log_weight.new_zeros(num_bonds, 3), SLOTS, 0)
        if own:
            return attend_rows_of_atoms(query, x, rows, HEADS, [SIZE])
        return attend_rows(torch.cat([query, x], dim=1), rows, HEADS, [SIZE])

    queries, tokens = num_atoms if own else num_atoms + num_bonds, num_atoms + num_bonds
    shapes = ((queries, channels), (tokens, 2 * channels), (num_bonds,))
    tensors = [random(*shape, seed=k).to(dtype).requires_grad_() for k, shape in enumerate(shapes)]
    directions = [random(*shape, seed=9 + k) for k, shape in enumerate(shapes)]
    assert_same(attend, attend, tensors, [random(queries, channels, seed=5), *directions], order)


@pytest.mark.parametrize("own", [False, True], ids=["all", "own"])
def test_second_derivatives(own: bool) -> None:
    check(torch.float64, 2, own=own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients(dtype: torch.dtype) -> None:
    check(dtype, 1, own=False)


def test_no_rows() -> None:
    rows = make_rows(torch.zeros(0), torch.zeros(0, 3), SLOTS[:0], 0)
    with kernels_on_cpu():
        assert attend_rows(torch.zeros(0, 3 * HEADS * SIZE), rows, HEADS, [SIZE]).shape == (0, HEADS * SIZE)
