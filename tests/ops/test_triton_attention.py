"""All-to-all attention by Triton kernels, in the interpreter, against its plain form in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_same, random
from torch import Tensor

from uip.ops.attention import Radial, attend_double_backward, candidate_shifts

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.9.0")

HEADS, SIZE = 2, 3
GRAPHS = torch.tensor([0] * 4 + [1] + [2] * 2)
"""One of several atoms in a skewed cell, one of one atom, one that is periodic along one vector."""
CELL = torch.tensor(
    [
        [[3.0, 0.0, 0.0], [2.6, 1.4, 0.0], [0.9, 0.8, 3.2]],
        [[0.0] * 3] * 3,
        [[2.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0] * 3],
    ]
)
PBC = torch.tensor([[True] * 3, [False] * 3, [True, False, False]])


def check(dtype: torch.dtype, order: int, *, radial: bool = True, strain: bool = True) -> None:
    atoms, channels = GRAPHS.shape[0], HEADS * SIZE

    def attend(positions: Tensor, stretch: Tensor, q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        cell = CELL.to(positions.dtype)
        bias = Radial(weight, positions, stretch if strain else None, cell, PBC) if radial else None
        return attend_double_backward(q, k, v, GRAPHS, HEADS, bias)

    tensors = [
        (2.0 * random(atoms, 3)).to(dtype).requires_grad_(radial),
        torch.zeros(atoms, 3, 3, dtype=dtype).requires_grad_(radial and strain),
        *(random(atoms, channels, seed=k).to(dtype).requires_grad_() for k in (1, 2, 3)),
        (0.3 * random(HEADS, 32, seed=4)).to(dtype).requires_grad_(radial),
    ]
    directions = [random(*x.shape, seed=5 + k) for k, x in enumerate(tensors[:5]) if x.requires_grad]
    assert_same(attend, attend, tensors, [random(atoms, channels, seed=12), *directions], order)


def test_the_cell_has_shorter_images_than_the_nearest_fraction() -> None:
    assert candidate_shifts(CELL[0], PBC[0]).shape[0] > 0


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives(order: int) -> None:
    check(torch.float64, order)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("radial", [True, False])
def test_without_strain_or_bias(radial: bool, order: int) -> None:
    check(torch.float64, order, radial=radial, strain=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_precisions(dtype: torch.dtype) -> None:
    check(dtype, 1, radial=dtype == torch.float32)
