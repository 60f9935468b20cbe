"""Ops that run as Triton kernels on GPUs: numbers against their plain forms in float64, times against the roofline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uip.nn.mlp import GatedMLP
from uip.nn.row_attention import attend_rows, make_rows
from uip.ops.attention import Radial, attend_double_backward
from uip.ops.kernels import kernels_on_cpu, without_kernels
from uip.ops.segment_sum import make_segments, segment_sum

Row = dict[str, Any]
Function = Callable[..., Tensor]
TOLERANCE = 2e-5
"""float32, of values and derivatives, relative to the largest number."""
NEIGHBORS, CHANNELS, HEADS = 24, 64, 4


@dataclass(frozen=True)
class Case:
    """An op on one set of inputs.

    Args:
        function: of `tensors`, on whichever device and in whichever precision they are.
        tensors: float64, on the CPU.
        flops, num_bytes: of the forward op; multiplications and additions, compulsory reads and writes in float32.
        weights: how many of the last tensors are weights: training needs no derivatives of their gradients.
    """

    function: Function
    tensors: tuple[Tensor, ...]
    flops: float
    num_bytes: float
    weights: int = 0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sum_case(atoms: int) -> Case:
    """A sum over the edges of each atom."""
    count = NEIGHBORS * atoms
    index = torch.arange(atoms).repeat_interleave(NEIGHBORS)

    def function(x: Tensor) -> Tensor:
        return segment_sum(x, make_segments(index.to(x.device), atoms, is_sorted=True))

    num_bytes = 4 * CHANNELS * (count + atoms) + 8 * count
    return Case(function, (random(count, CHANNELS),), count * CHANNELS, num_bytes)


def message_case(atoms: int) -> Case:
    """The gated message of CHGNet's edges."""
    count = NEIGHBORS * atoms
    row = torch.arange(atoms).repeat_interleave(NEIGHBORS)
    column = (row + torch.arange(count) % NEIGHBORS + 1) % atoms
    torch.manual_seed(0)
    mlp = GatedMLP(3, CHANNELS, hidden=True, norm=True).requires_grad_(False)

    def function(first: Tensor, second: Tensor, each: Tensor) -> Tensor:
        bound = mlp.to(device=each.device, dtype=each.dtype)
        rows = make_segments(row.to(each.device), atoms, is_sorted=True)
        return bound.message(first, second, each, rows, make_segments(column.to(each.device), atoms))

    tensors = [random(rows, 2 * CHANNELS, seed=rows) for rows in (atoms, atoms + 1, count)]
    num_bytes = 4 * CHANNELS * (7 * count + 2) + 16 * count
    return Case(function, (tensors[0], tensors[1][:atoms], tensors[2]), 4.0 * count * CHANNELS**2, num_bytes)


def rows_case(atoms: int) -> Case:
    """Attention within the neighbourhood of each atom, AllScAIP's."""
    bonds = NEIGHBORS * atoms
    slots = torch.arange(bonds).view(atoms, NEIGHBORS)

    def function(x: Tensor, log_weight: Tensor) -> Tensor:
        rows = make_rows(log_weight, log_weight.new_zeros(bonds, 3), slots.to(x.device), 0)
        return attend_rows(x, rows, HEADS, [CHANNELS])

    hidden, width = HEADS * CHANNELS, NEIGHBORS + 1
    tensors = (random(atoms + bonds, 3 * hidden), -random(bonds, seed=1).abs())
    return Case(function, tensors, 4.0 * atoms * width**2 * hidden, 16.0 * hidden * (atoms + bonds))


def attention_case(atoms: int, *, radial: bool) -> Case:
    """Attention to all atoms of a cubic cell."""
    hidden, side = HEADS * CHANNELS, 3.0 * atoms ** (1 / 3)

    def function(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, weight: Tensor) -> Tensor:
        cell = side * torch.eye(3, dtype=q.dtype, device=q.device).unsqueeze(0)
        pbc = torch.ones(1, 3, dtype=torch.bool, device=q.device)
        bias = Radial(weight, positions, None, cell, pbc) if radial else None
        graph_index = torch.zeros(atoms, dtype=torch.int64, device=q.device)
        return attend_double_backward(q, k, v, graph_index, HEADS, bias)

    place = side * torch.rand(atoms, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    tensors = (*(random(atoms, hidden, seed=k) for k in range(3)), place, 0.3 * random(HEADS, 32, seed=5))
    flops = 4.0 * atoms**2 * hidden + (2.0 * atoms**2 * HEADS * 32 if radial else 0.0)
    return Case(function, tensors, flops, 16.0 * atoms * hidden, weights=1)


MAKERS: dict[str, Callable[[int], Case]] = {
    "segment sum": sum_case,
    "gated message": message_case,
    "row attention": rows_case,
    "attention": lambda atoms: attention_case(atoms, radial=False),
    "attention, radial bias": lambda atoms: attention_case(atoms, radial=True),
}


def kernels(setting: Any) -> AbstractContextManager[None]:
    """On a CPU kernels run in the interpreter."""
    return kernels_on_cpu() if setting.dry else nullcontext()


def small_blocks() -> None:
    """The interpreter computes whole blocks of attention, however few atoms there are."""
    from uip.ops.cuda import attention

    attention.BLOCK = attention.BLOCK_SECOND


def derivatives(function: Function, tensors: tuple[Tensor, ...], weights: int) -> list[Tensor]:
    """The value y, gradients of <w, y>, and of <u, those that are not of weights>; w and u are random."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    y = function(*leaves)
    w = random(*y.shape, seed=7).to(y)
    first = torch.autograd.grad(y, leaves, w, create_graph=True, materialize_grads=True)
    geometry = first[: len(first) - weights]
    products = [(g * random(*g.shape, seed=8).to(g)).sum() for g in geometry if g.requires_grad]
    if not products:
        return [y, *first]
    second = torch.autograd.grad(torch.stack(products).sum(), leaves, allow_unused=True, materialize_grads=True)
    return [y, *first, *second]


def error_of(case: Case, setting: Any) -> Row:
    """The largest error of values and derivatives."""
    with without_kernels():
        expected = derivatives(case.function, case.tensors, case.weights)
    with kernels(setting):
        tensors = tuple(x.to(setting.device, torch.float32) for x in case.tensors)
        got = derivatives(case.function, tensors, case.weights)
    worst = 0.0
    for mine, exact in zip(got, expected, strict=True):
        scale = max(1.0, exact.abs().max().item())
        worst = max(worst, (mine.detach().cpu().double() - exact.detach()).abs().max().item() / scale)
    return {"error": f"{worst:.1e}", "right": math.isfinite(worst) and worst < TOLERANCE}


def ops(setting: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Numbers of every op."""
    for name, make in MAKERS.items():
        atoms = 9 if setting.dry else 500
        yield name, lambda make=make, atoms=atoms: error_of(make(atoms), setting)


def seconds(work: Callable[[], object], setting: Any) -> float:
    """The least time of a call, after some that do not count."""
    least = math.inf
    for number in range(setting.warm + setting.repeats):
        begin = time.perf_counter()
        work()
        if setting.device.type == "cuda":
            torch.cuda.synchronize()
        if number >= setting.warm:
            least = min(least, time.perf_counter() - begin)
    return least


def peaks(setting: Any) -> tuple[float, float]:
    """Bytes a second of a copy, and flops a second of a product in float32."""
    size = 512 if setting.dry else 8192
    x = torch.randn(size, size, device=setting.device)
    y = torch.empty_like(x)
    return 8.0 * size**2 / seconds(lambda: y.copy_(x), setting), 2.0 * size**3 / seconds(lambda: x @ x, setting)


def time_of(case: Case, setting: Any, roofline: tuple[float, float]) -> Row:
    """Forward, and forward with gradient; of kernels and of the plain form."""
    tensors = [x.to(setting.device, torch.float32).requires_grad_() for x in case.tensors]

    def gradient() -> None:
        torch.autograd.grad(case.function(*tensors).sum(), tensors, materialize_grads=True)

    def forward() -> None:
        with torch.no_grad():
            case.function(*tensors)

    with kernels(setting):
        times = [seconds(work, setting) for work in (forward, gradient)]
    with without_kernels():
        plain = [seconds(work, setting) for work in (forward, gradient)]
    floor = max(case.num_bytes / roofline[0], case.flops / roofline[1])
    row = {"forward_us": times[0], "gradient_us": times[1], "plain_forward_us": plain[0], "plain_gradient_us": plain[1]}
    return {key: round(1e6 * value, 1) for key, value in row.items()} | {"of_roofline": round(floor / times[0], 3)}


def times_of_ops(setting: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Times of every op; the peaks of the machine are measured first."""
    found: list[tuple[float, float]] = []

    def measure() -> Row:
        found.append(peaks(setting))
        return {"copy_GB_s": round(found[0][0] / 1e9, 1), "product_TFlop_s": round(found[0][1] / 1e12, 3)}

    yield "peaks", measure
    for name, make in MAKERS.items():
        atoms = 3 if setting.dry else 4096
        yield f"{name}, {atoms} atoms", lambda make=make, atoms=atoms: time_of(make(atoms), setting, found[0])
