"""Sums over segments by Triton kernels, in the interpreter: values, gradients, empty segments, choice of the form."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_same, random

from uip.ops import kernels
from uip.ops.kernels import has_kernels, kernels_on_cpu, without_kernels
from uip.ops.segment_sum import gather, make_segments, segment_sum

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.9.0")

INDEX = torch.tensor([1] * 17 + [3, 3, 4])
"""Segments 0, 2 and 5 are empty, one is longer than a block."""
SHUFFLED = INDEX[torch.randperm(20, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("index", [INDEX, SHUFFLED], ids=["sorted", "shuffled"])
def test_values_and_gradients(index: torch.Tensor, dtype: torch.dtype) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        segments = make_segments(index, 6, is_sorted=index is INDEX)
        return segment_sum(gather(segment_sum(x, segments), segments).square(), segments)

    def plain(x: torch.Tensor) -> torch.Tensor:
        total = x.new_zeros(6, 3).index_add(0, index, x)
        return torch.zeros_like(total).index_add(0, index, total[index].square())

    x = (0.25 * random(20, 3)).to(dtype).requires_grad_()
    for order in (1, 2) if dtype == torch.float64 else (1,):
        assert_same(function, plain, [x], [random(6, 3, seed=1), random(20, 3, seed=2)], order)


def test_more_channels_than_a_block_and_no_rows() -> None:
    index = torch.tensor([0, 1, 1])
    assert_same(
        lambda x: segment_sum(x, make_segments(index, 2, is_sorted=True)),
        lambda x: torch.stack([x[0], x[1] + x[2]]),
        [random(3, 65).requires_grad_()],
        [random(2, 65, seed=1)],
        1,
    )
    with kernels_on_cpu():
        assert torch.equal(segment_sum(torch.empty(0, 3), make_segments(index[:0], 2)), torch.zeros(2, 3))


def test_repeated_sums_are_equal_to_the_last_digit() -> None:
    x = random(20, 3).float()
    with kernels_on_cpu():
        results = [segment_sum(x, make_segments(SHUFFLED, 6)) for _ in range(2)]
    assert torch.equal(*results)


def test_kernels_are_for_cuda() -> None:
    x = torch.empty(1)
    assert not has_kernels(x)
    with kernels_on_cpu():
        assert has_kernels(x)
        with without_kernels():
            assert not has_kernels(x)


def test_kernels_on_a_cpu_need_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match=r"TRITON_INTERPRET is '0'; set TRITON_INTERPRET=1 before"), kernels_on_cpu():
        pass
    monkeypatch.setattr(kernels, "_is_installed", lambda: False)
    with pytest.raises(RuntimeError, match="triton must be installed"), kernels_on_cpu():
        pass
