"""Fused messages against the modules that define them: outputs, gradients, threads, kernels, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import systems
import torch
from conftest import SMALL, random_chgnet
from export_files import exported
from torch import Tensor

from uip.graph.batch import Graph, batch
from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.inference.evaluator import load_evaluator
from uip.models.chgnet import CHGNet
from uip.models.readout import evaluate, run_model
from uip.nn.fused import (
    AngleMessage,
    PackedLinear,
    angle_lists,
    panels,
    plain_form,
)
from uip.nn.mlp import GatedMLP
from uip.parallel.library import load_library
from uip.program.trace import exact_form, in_order, trace

load_library()

NAMES = ("energy", "node_energy", "edge_grad", "forces", "virial", "magmoms")


def make_model(
    channels: int, *, norm: bool = True, dtype: torch.dtype = torch.float64, readout: str = "gradient"
) -> CHGNet:
    config = replace(SMALL, channels=channels, norm=norm, output_bias=not norm, readout=readout)
    return random_chgnet(config).to(dtype=dtype).requires_grad_(False).eval()


def graph_of(name: str, dtype: torch.dtype = torch.float64) -> Graph:
    atoms = systems.ALL[name]()
    structure = check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return build_graph(structure, 6.0, 3.0).to(dtype=dtype)


def some_graphs(dtype: torch.dtype = torch.float64) -> Graph:
    return batch([graph_of(name, dtype) for name in sorted(systems.ALL)])


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(got.double(), expected.double(), rtol=0.0, atol=tolerance * scale, equal_nan=True)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("channels", [8, 16, 24, 64])
def test_fused_model_is_the_plain_one(channels: int, norm: bool) -> None:
    model, graph = make_model(channels, norm=norm), some_graphs()
    assert model.fused() is not None
    with plain_form():
        assert model.fused() is None
        expected = evaluate(model, graph)
    outputs = evaluate(model, graph)
    for name in NAMES:
        assert_close(getattr(outputs, name), getattr(expected, name), 1e-12)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("channels", [8, 16, 24, 64])
def test_float32_is_as_good_as_plain_float32(channels: int, norm: bool) -> None:
    model, graph = make_model(channels, norm=norm), some_graphs(torch.float32)
    with plain_form():
        exact = evaluate(model, graph.to(dtype=torch.float64))
        plain = evaluate(model.to(dtype=torch.float32), graph)
    outputs = evaluate(model, graph)
    for name in NAMES:
        want = getattr(exact, name)
        allowed = 3.0 * (getattr(plain, name).double() - want).abs().max().item() + 2e-6 * want.abs().max().item()
        assert_close(getattr(outputs, name), want, allowed)


def test_direct_readout_is_the_plain_one() -> None:
    model, graph = make_model(16, readout="direct"), some_graphs()
    with plain_form():
        expected = evaluate(model, graph)
    outputs = evaluate(model, graph)
    for name in ("energy", "edge_grad", "forces"):
        assert_close(getattr(outputs, name), getattr(expected, name), 1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_no_edges_and_no_angles(count: int) -> None:
    positions = torch.tensor([[0.0, 0.0, 5.0 * k] for k in range(count)]).numpy()
    graph = build_graph(check_structure([8] * count, positions), 6.0, 3.0).to(dtype=torch.float64)
    assert graph.num_angles == 0
    assert graph.num_edges == (0 if count == 1 else 2)
    model = make_model(16)
    with plain_form():
        expected = evaluate(model, graph)
    outputs = evaluate(model, graph)
    for name in ("energy", "edge_grad", "forces", "magmoms"):
        assert_close(getattr(outputs, name), getattr(expected, name), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_change_a_digit(dtype: torch.dtype) -> None:
    model, graph = make_model(64, dtype=dtype), some_graphs(dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(run_model(model, graph.tensors()))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in results[0].items():
            if value is not None:
                assert torch.equal(value, other[name]), name


def test_weights_are_packed_again_when_they_change() -> None:
    model, graph = make_model(16), graph_of("si_diamond" if "si_diamond" in systems.ALL else sorted(systems.ALL)[0])
    first = evaluate(model, graph).energy
    with torch.no_grad():
        model.atom_updates[0].output.weight.mul_(1.5)
    with plain_form():
        expected = evaluate(model, graph).energy
    assert not torch.allclose(first, expected)
    assert_close(evaluate(model, graph).energy, expected, 1e-12)


def test_weights_that_are_trained_are_not_packed() -> None:
    model, graph = make_model(16).requires_grad_(True), graph_of(sorted(systems.ALL)[0])
    assert model.fused() is not model.fused()
    outputs = evaluate(model, graph, training=True)
    outputs.forces.square().sum().backward()
    assert model.atom_updates[0].message.core.weight.grad is not None


ANGLES_OF_FOUR = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), torch.tensor([0, 0, 1, 1])
"""Two pairs of bonds, and their centres."""


def angle_call(dtype: torch.dtype = torch.float64) -> tuple[AngleMessage, list[Tensor]]:
    torch.manual_seed(0)
    mlp = GatedMLP(4, 16, hidden=True, norm=True).to(dtype=dtype).requires_grad_(False)
    lists = angle_lists(*ANGLES_OF_FOUR, torch.zeros(2, dtype=torch.int64))
    inputs = [torch.randn(rows, 16, dtype=dtype) for rows in (4, 4, 2, 4)]
    message = AngleMessage(mlp)
    tensors = [x.requires_grad_() for x in inputs]
    return message, [message(*tensors, lists), *tensors]


def test_a_second_derivative_is_refused() -> None:
    _, (y, *inputs) = angle_call()

    def second_derivative() -> None:
        (first,) = torch.autograd.grad(y.square().sum(), inputs[:1], create_graph=True)
        torch.autograd.grad(first.square().sum(), inputs[:1])

    with pytest.raises(RuntimeError, match=r"not implemented|does not require grad|derivative"):
        second_derivative()


def test_a_derivative_of_weights_is_refused() -> None:
    message, (_, *inputs) = angle_call()
    none = torch.tensor([], dtype=torch.float64)
    for linear_or_message in (message.first, message.message):
        weights = linear_or_message.weights
        weights[0] = weights[0].clone().requires_grad_()

        def call(layer: object = linear_or_message) -> None:
            if isinstance(layer, PackedLinear):
                layer(inputs[0])
            else:
                lists = angle_lists(*ANGLES_OF_FOUR, torch.zeros(2, dtype=torch.int64))
                totals = (torch.zeros(4, 32, dtype=torch.float64), torch.zeros(4, 32, dtype=torch.float64), none)
                layer.call(1, lists, inputs[1], none, totals, inputs[3])

        with pytest.raises(RuntimeError, match="weights must be constants"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_kept_changes_no_digit(dtype: torch.dtype) -> None:
    """Of the first messages the gate's inputs are kept, of others computed again."""
    message = AngleMessage(GatedMLP(4, 16, hidden=True, norm=True).to(dtype=dtype).requires_grad_(False))
    torch.manual_seed(0)
    count, rows = 100, 7
    centre = torch.arange(count) * rows // count
    lists = angle_lists(torch.stack([centre, torch.randperm(count) % rows]), torch.arange(rows), torch.zeros(rows))
    x, factor, gradient = (torch.randn(n, 16, dtype=dtype) for n in (count, rows, rows))
    totals = [torch.randn(rows, 32, dtype=dtype) for _ in range(3)]
    call = (1, True, False, 0, x, x.new_zeros(0), *totals, factor, lists.tensors(), message.message.weights)
    ops = torch.ops.uip
    y, hidden = ops.gated_message_forward(*call)
    assert hidden.shape == (count, 32)
    assert torch.equal(y, ops.gated_message(*call))
    again = ops.gated_message_backward(gradient, hidden[:0], *call)
    for kept in (5, 24, 77, count):
        for got, expected in zip(ops.gated_message_backward(gradient, hidden[:kept], *call), again, strict=True):
            assert torch.equal(got, expected)
    # they are read, not computed again
    changed = ops.gated_message_backward(gradient, hidden + 1.0, *call)
    assert not torch.equal(changed[0], again[0])
    with pytest.raises(RuntimeError, match="what gated_message_forward kept"):
        ops.gated_message_backward(gradient, hidden.repeat(2, 1), *call)


def test_what_is_kept_is_limited() -> None:
    """48 MiB of one call; nothing of angles from tables."""

    def kept(kind: int, messages: int, *, tabulated: bool) -> int:
        like = torch.zeros(0, device="meta")
        x = torch.zeros(messages, device="meta")
        totals = (torch.zeros(8, 128, device="meta"), like, like)
        call = (kind, True, tabulated, 0, x, like, *totals, like, [], [])
        return int(torch.ops.uip.gated_message_forward(*call)[1].shape[0])

    assert kept(0, 1000, tabulated=True) == 1000
    assert kept(0, 200_000, tabulated=True) == 48 * 2**20 // (128 * 4)
    assert kept(2, 1000, tabulated=False) == 1000
    assert kept(2, 1000, tabulated=True) == 0


def test_memory_of_large_results_is_used_again() -> None:
    """A block returns when its tensor is gone, and not before."""
    mlp = GatedMLP(4, 16, hidden=False, norm=True).requires_grad_(False)
    message = AngleMessage(mlp)
    count = 20_000  # of 16 float32: more than 1 MiB
    lists = angle_lists(torch.zeros(2, count, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.zeros(1))
    e, v = torch.randn(2, 16), torch.randn(1, 16)

    def result(value: float) -> Tensor:
        return message(e, torch.full((count, 16), value), v, e.new_zeros(0), lists)

    first, second = result(1.0), result(2.0)
    place, kept = first.data_ptr(), second.clone()
    assert place != second.data_ptr()
    del first
    third = result(3.0)
    assert third.data_ptr() == place
    assert torch.equal(second, kept)
    assert not torch.equal(third, second)


def test_a_panel_holds_64_bytes() -> None:
    matrix = torch.arange(3 * 24, dtype=torch.float32).view(3, 24)
    packed = panels(matrix)
    assert packed.shape == (2, 3, 16)
    assert packed[1, 2, 3] == matrix[2, 19]
    assert packed[1, 2, 8] == 0.0


def test_packed_linear_is_linear() -> None:
    for rows, inputs, outputs in ((0, 16, 8), (1, 8, 24), (100, 64, 128)):
        x, weight = torch.randn(rows, inputs, dtype=torch.float64), torch.randn(outputs, inputs, dtype=torch.float64)
        bias = torch.randn(outputs, dtype=torch.float64)
        x.requires_grad_()
        y = PackedLinear(weight, bias)(x)
        assert_close(y, x @ weight.T + bias, 1e-13)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert_close(gradient, 2 * (x @ weight.T + bias) @ weight, 1e-12)


def test_index_add_is_torchs() -> None:
    base, source = torch.randn(5, 3, 4), torch.randn(9, 3, 4)
    index = torch.tensor([4, 0, 0, 3, 4, 4, 1, 0, 2])
    assert torch.equal(torch.ops.uip.index_add(base, index, source), base.index_add(0, index, source))
    with pytest.raises(RuntimeError, match="an index must be in"):
        torch.ops.uip.index_add(base, index + 1, source)


def test_unsorted_lists_are_refused() -> None:
    with pytest.raises(RuntimeError, match="sorted by centre"):
        torch.ops.uip.segment_offsets(torch.tensor([1, 0]), torch.zeros(2))


PRINT_KERNELS = """
import torch, test_gated_message as here
from uip.models.readout import evaluate
print(torch.ops.uip.cpu_kernels())
for dtype in (torch.float32, torch.float64):
    outputs = evaluate(here.make_model(24, dtype=dtype), here.graph_of(sorted(here.systems.ALL)[0], dtype))
    print(*outputs.forces.double().flatten().tolist())
"""


def results_with(kernels: str) -> list[Tensor]:
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "UIP_CPU_KERNELS": kernels,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests / "ops")]),
    }
    run = subprocess.run(
        [sys.executable, "-c", PRINT_KERNELS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tests.parent,
    )
    name, *numbers = run.stdout.strip().splitlines()
    assert name == kernels
    return [torch.tensor([float(word) for word in line.split()], dtype=torch.float64) for line in numbers]


@pytest.mark.slow
def test_kernels_agree() -> None:
    available = torch.ops.uip.cpu_kernels()
    if available == "generic":
        pytest.skip("this processor has neither AVX2 nor AVX-512")
    single, double = results_with("generic")
    for kernels in ("avx2", "avx512") if available == "avx512" else ("avx2",):
        other_single, other_double = results_with(kernels)
        assert_close(other_single, single, 1e-5)
        assert_close(other_double, double, 1e-12)


def test_programs_hold_the_ops_and_no_sum_in_any_order() -> None:
    program = in_order(trace(exact_form(random_chgnet())))
    names = {str(node.target) for node in program.graph.nodes}
    assert {"uip.gated_message_forward.default", "uip.gated_message_backward.default", "uip.index_add.default"} <= names
    assert not {name for name in names if name.startswith(("aten.index_add", "aten.index_put", "aten.scatter_add"))}


def test_a_table_of_another_width_is_refused() -> None:
    message, (_, e, t, v, factor) = angle_call()
    message.message.tabulated = True
    with pytest.raises(RuntimeError, match=r"a table \(knots, 4, 32\)"):
        message(e, t[:, 0], v, factor, angle_lists(*ANGLES_OF_FOUR, torch.zeros(2)))


def test_a_second_thread_works() -> None:
    """libuip without OpenMP would do all on the thread that calls."""
    table, before = torch.randn(64, 4, 8, dtype=torch.float64), torch.get_num_threads()
    x = torch.rand(1_000_000, dtype=torch.float64)
    torch.set_num_threads(2)
    try:
        torch.ops.uip.interpolate(x, table)
        total, own = time.process_time(), time.thread_time()
        for _ in range(5):
            torch.ops.uip.interpolate(x, table)
        total, own = time.process_time() - total, time.thread_time() - own
    finally:
        torch.set_num_threads(before)
    assert total - own > 0.25 * total


def test_threads_and_runs_do_not_change_a_program() -> None:
    program, graph = load_evaluator(exported("random", ".pt", "float32")), some_graphs(torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2, 4):
            torch.set_num_threads(threads)
            results.append(program(graph))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name in NAMES:
            torch.testing.assert_close(getattr(other, name), getattr(results[0], name), rtol=0.0, atol=0.0, msg=name)
