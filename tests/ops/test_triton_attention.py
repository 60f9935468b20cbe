"""All-to-all attention by Triton kernels, in the interpreter, against its plain form in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_same, random
from torch import Tensor

from uip.ops.attention import Radial, attend_double_backward, candidate_shifts
from uip.ops.kernels import kernels_on_cpu

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.9.0")

SIZE = 3
FEW, MANY = [0] * 4 + [1] + [2] * 2, [0] * 11 + [1] + [2] * 6
"""Graphs of atoms: several atoms in a skewed cell, one atom alone, a cell that is periodic along one vector. MANY are
more than a block of 16, and a graph lies in both."""
CELL = torch.tensor(
    [
        [[3.0, 0.0, 0.0], [2.6, 1.4, 0.0], [0.9, 0.8, 3.2]],
        [[0.0] * 3] * 3,
        [[2.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0] * 3],
    ]
)
PBC = torch.tensor([[True] * 3, [False] * 3, [True, False, False]])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from uip.ops.cuda import attention

    monkeypatch.setattr(attention, "BLOCK", 16)
    assert attention.BLOCK_SECOND == 16


def check(
    graphs: list[int], dtype: torch.dtype, order: int, *, heads: int = 1, radial: bool = True, strain: bool = True
) -> None:
    atoms, channels = len(graphs), heads * SIZE

    def attend(positions: Tensor, stretch: Tensor, q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        cell = CELL.to(positions.dtype)
        bias = Radial(weight, positions, stretch if strain else None, cell, PBC) if radial else None
        return attend_double_backward(q, k, v, torch.tensor(graphs), heads, bias)

    tensors = [
        (2.0 * random(atoms, 3)).to(dtype).requires_grad_(radial),
        torch.zeros(atoms, 3, 3, dtype=dtype).requires_grad_(radial and strain),
        *(random(atoms, channels, seed=k).to(dtype).requires_grad_() for k in (1, 2, 3)),
        (0.3 * random(heads, 32, seed=4)).to(dtype).requires_grad_(radial),
    ]
    directions = [random(*x.shape, seed=5 + k) for k, x in enumerate(tensors[:5]) if x.requires_grad]
    assert_same(attend, attend, tensors, [random(atoms, channels, seed=12), *directions], order)


def test_the_cell_has_shorter_images_than_the_nearest_fraction() -> None:
    assert candidate_shifts(CELL[0], PBC[0]).shape[0] > 0


def test_values_with_bias() -> None:
    check(FEW, torch.float64, 0)


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_without_bias(order: int) -> None:
    check(MANY, torch.float64, order, heads=2, radial=False)


@pytest.mark.slow
@pytest.mark.parametrize(("graphs", "order", "heads"), [(MANY, 1, 1), (FEW, 2, 2)], ids=["first", "second"])
def test_derivatives(graphs: list[int], order: int, heads: int) -> None:
    check(graphs, torch.float64, order, heads=heads)


@pytest.mark.slow
def test_derivatives_without_strain() -> None:
    check(FEW, torch.float64, 2, strain=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_precisions(dtype: torch.dtype) -> None:
    check(FEW, dtype, 1, radial=dtype == torch.float32)


@pytest.mark.slow
def test_derivatives_of_weights_have_no_further_derivative() -> None:
    q, positions, weight = random(2, SIZE), random(2, 3), random(1, 32).requires_grad_()
    radial = Radial(weight, positions, None, torch.zeros(1, 3, 3, dtype=torch.float64), PBC[1:2])
    with kernels_on_cpu():
        y = attend_double_backward(q, q, q, torch.zeros(2, dtype=torch.int64), 1, radial)
        (slope,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
        with pytest.raises(RuntimeError, match="weights of the radial bias has no further derivative on a GPU"):
            torch.autograd.grad(slope.sum(), weight)
