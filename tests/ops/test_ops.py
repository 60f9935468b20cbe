"""The communication ops of libuip on one rank: values, gradients of any order, shapes, memory, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from uip.parallel import collectives, library

REVERSE = torch.tensor([3, 2, 1, 0, 4])
ROWS = torch.empty(5)


@pytest.fixture(autouse=True)
def loaded_library() -> None:
    library.load_library()


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "ghost_gather": lambda x: torch.ops.uip.ghost_gather(x, ROWS),
    "ghost_reduce": lambda x: torch.ops.uip.ghost_reduce(x, ROWS),
    "all_gather": lambda x: torch.ops.uip.all_gather(x, ROWS),
    "reduce_scatter": lambda x: torch.ops.uip.reduce_scatter(x, ROWS),
    "reverse_edges": lambda x: torch.ops.uip.reverse_edges(x, REVERSE, collectives.EDGES),
}
op = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@op
def test_first_and_second_gradients(op: Callable[[Tensor], Tensor]) -> None:
    x = random(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(op, (x,))
    assert torch.autograd.gradgradcheck(lambda x: op(x).pow(3), (x,))


@op
def test_results_share_no_memory_with_arguments(op: Callable[[Tensor], Tensor]) -> None:
    x = random(5, 3)
    before = x.clone()
    op(x).fill_(7.0)
    assert torch.equal(x, before)


@op
def test_transposed_rows_come_back_contiguous(op: Callable[[Tensor], Tensor]) -> None:
    x = random(3, 5).T
    assert op(x).is_contiguous()
    assert torch.equal(op(x), op(x.contiguous()))


@op
def test_values_on_one_rank(op: Callable[[Tensor], Tensor]) -> None:
    x = random(5, 3, dtype=torch.float32)
    expected = x[REVERSE] if op is OPS["reverse_edges"] else x
    assert torch.equal(op(x), expected)
    assert op(x).dtype == torch.float32


def test_no_rows() -> None:
    x = torch.empty(0, 4)
    assert torch.ops.uip.ghost_gather(x, torch.empty(0)).shape == (0, 4)
    assert torch.ops.uip.reverse_edges(x, torch.empty(0, dtype=torch.int64), 1).shape == (0, 4)


@pytest.mark.parametrize("name", ["ghost_gather", "ghost_reduce", "all_gather", "reduce_scatter"])
def test_shapes_follow_the_carrier(name: str) -> None:
    x, carrier = torch.empty(5, 3, device="meta"), torch.empty(9, 2, device="meta", dtype=torch.int64)
    assert getattr(torch.ops.uip, name)(x, carrier).shape == (9, 3)


@pytest.mark.parametrize("name", ["ghost_gather", "ghost_reduce", "all_gather", "reduce_scatter"])
def test_ghosts_without_communicator_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="5 rows given must be as many as the rows wanted, got 9"):
        getattr(torch.ops.uip, name)(torch.empty(5, 3), torch.empty(9))


def test_registrations_are_complete() -> None:
    x = random(5, 3).requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for name in ("ghost_gather", "ghost_reduce", "all_gather", "reduce_scatter"):
        torch.library.opcheck(getattr(torch.ops.uip, name).default, (x, ROWS), test_utils=tests)
    torch.library.opcheck(torch.ops.uip.reverse_edges.default, (x, REVERSE, 0), test_utils=tests)


def test_collectives_of_a_model_are_plain_torch_by_default() -> None:
    x = random(5, 3)
    assert collectives.ghost_gather(x, ROWS) is x
    assert torch.equal(collectives.reverse_edges(x, REVERSE), x[REVERSE])
    with collectives.use_ops():
        assert collectives.ghost_gather(x, ROWS) is not x
    assert collectives.all_gather(x, ROWS) is x


def test_a_communicator_ends_with_its_context() -> None:
    class Doubling:
        def __getattr__(self, name: str) -> Callable[..., Tensor]:
            return lambda x, *rest: 2 * x

    x = random(5, 3)
    with collectives.use_communicator(Doubling()):
        assert torch.equal(collectives.all_gather(x, ROWS), 2 * x)
        assert torch.equal(torch.ops.uip.reverse_edges(x, REVERSE, 0), 2 * x)
    assert torch.equal(torch.ops.uip.all_gather(x, ROWS), x)


def test_an_error_of_the_communicator_reaches_the_caller() -> None:
    class Broken:
        def __getattr__(self, name: str) -> Callable[..., Tensor]:
            def fail(x: Tensor, *rest: object) -> Tensor:
                raise OSError("the cable is out")

            return fail

    with collectives.use_communicator(Broken()), pytest.raises(OSError, match="the cable is out"):
        collectives.ghost_gather(random(5, 3), ROWS)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libuip.so")
    with pytest.raises(RuntimeError, match=r"libuip\.so is missing; run 'pip install \.'"):
        library.load_library.__wrapped__()
    library.LIBRARY.write_bytes(b"not a library")
    with pytest.raises(RuntimeError, match=r"does not fit torch .*run 'pip install \.' again"):
        library.load_library.__wrapped__()
