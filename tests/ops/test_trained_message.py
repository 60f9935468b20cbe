"""Fused messages of training against the modules that define them: two derivatives, weights, threads, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import systems
import torch
from conftest import SMALL, random_chgnet
from torch import Tensor, nn

from uip.graph.batch import Graph, batch
from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.models.chgnet import AngleUpdate, AtomUpdate, BondUpdate, CHGNet, CHGNetConfig, Pairs, angle_message
from uip.models.fused_chgnet import FusedCHGNet
from uip.models.readout import evaluate
from uip.nn.basis import RadialBasis
from uip.nn.fused import Lists, angle_lists, edge_lists, plain_form, second_derivatives
from uip.nn.trained import TrainedAngleMessage, TrainedEdgeMessage
from uip.ops.segment_sum import gather, segment_sum
from uip.parallel.library import load_library

load_library()

ATOMS, EDGES, BONDS, ANGLES = 9, 61, 14, 75


def sorted_index(rows: int, count: int, *, skip: int = -1) -> Tensor:
    """(count,) ascending rows; none is `skip`."""
    index = torch.randint(rows, (count,)).sort().values
    return index[index != skip]


def randn(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=torch.float64).requires_grad_()


Case = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor], nn.Module]


def edge_case(channels: int, *, norm: bool, summed: bool) -> Case:
    """Messages of edges with fused op and with modules, their inputs and weights; atom 4 has no edges."""
    config = CHGNetConfig(channels=channels, norm=norm, num_radial=7)
    mlp = AtomUpdate(config).message.double()
    basis = RadialBasis(7, 6.0, 8).double()
    embedding, factor = (nn.Linear(7, channels, bias=False).double() for _ in range(2))
    weights = nn.ModuleList([mlp, basis, embedding, factor])
    centre = sorted_index(ATOMS, EDGES, skip=4)
    index = torch.stack([centre, torch.randint(ATOMS, centre.shape)])
    bond_index = torch.randperm(index.shape[1])[:BONDS].sort().values
    lists = edge_lists(index, bond_index, torch.zeros(ATOMS), torch.zeros(ATOMS))
    distance = (1.0 + 4.5 * torch.rand(index.shape[1], dtype=torch.float64)).requires_grad_()

    def fused(distance: Tensor, v: Tensor, rows: Tensor, change: Tensor) -> Tensor:
        message = TrainedEdgeMessage(mlp, basis, embedding.weight, factor.weight)
        totals = (message.centre(v), message.neighbor(rows), message.bond(change))
        return message(*message.inputs(distance), *totals, lists, summed=summed)

    def plain(distance: Tensor, v: Tensor, rows: Tensor, change: Tensor) -> Tensor:
        edges, radial = Pairs.of(index, ATOMS, ATOMS), basis(distance)
        edge = radial @ (mlp.weight(1) @ embedding.weight).T + mlp.first.bias
        edge = edge.index_add(0, bond_index, mlp.project(change, 1))
        each = mlp.message(mlp.project(v, 0), mlp.project(rows, 2), edge, edges.row, edges.column) * factor(radial)
        return segment_sum(each, edges.row) if summed else each

    return fused, plain, [distance, randn(ATOMS, channels), randn(ATOMS, channels), randn(BONDS, channels)], weights


def angle_case(channels: int, *, norm: bool, hidden: bool) -> Case:
    """Messages of angles, of bonds (`hidden`) or of angles; bond 6 has no angles."""
    config = CHGNetConfig(channels=channels, norm=norm)
    update = (BondUpdate if hidden else AngleUpdate)(config).double()
    bond_centre = sorted_index(4, BONDS)
    first = sorted_index(BONDS, ANGLES, skip=6)
    members = [(bond_centre == bond_centre[a]).nonzero()[:, 0] for a in first]
    second = torch.stack([own[torch.randint(len(own), ())] for own in members])
    index = torch.stack([first, second])
    lists = angle_lists(index, bond_centre, torch.zeros(4))

    def fused(e: Tensor, t: Tensor, v: Tensor, factor: Tensor) -> Tensor:
        y = TrainedAngleMessage(update.message)(e, t, v, factor if hidden else factor.new_zeros(0), lists)
        return y if hidden else y * 1.0 + 0.0 * factor.sum()

    def plain(e: Tensor, t: Tensor, v: Tensor, factor: Tensor) -> Tensor:
        angles = Pairs.of(index, BONDS, BONDS)
        y = angle_message(update.message, e, t, v, bond_centre, angles)
        return segment_sum(y * gather(factor, angles.column), angles.row) if hidden else t + y + 0.0 * factor.sum()

    sizes = (BONDS, index.shape[1], 4, BONDS)
    return fused, plain, [randn(rows, channels) for rows in sizes], update.message


CASES = {
    "edges": lambda channels, norm: edge_case(channels, norm=norm, summed=True),
    "edges, not summed": lambda channels, norm: edge_case(channels, norm=norm, summed=False),
    "bonds": lambda channels, norm: angle_case(channels, norm=norm, hidden=True),
    "angles": lambda channels, norm: angle_case(channels, norm=norm, hidden=False),
}


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor], weights: nn.Module) -> dict[str, Tensor]:
    """Value, gradients, and gradients of a function of value and gradients, by all inputs and weights."""
    torch.manual_seed(1)
    names = [f"input {k}" for k in range(len(inputs))] + [name for name, _ in weights.named_parameters()]
    sources = [*inputs, *weights.parameters()]
    y = function(*inputs)
    loss = (y * torch.randn_like(y)).sum() + y.square().sum()
    first = torch.autograd.grad(loss, sources, retain_graph=True, allow_unused=True, materialize_grads=True)
    slopes = torch.autograd.grad(loss, inputs, create_graph=True)
    number = sum((slope * torch.randn_like(slope)).sum() + slope.square().sum() for slope in slopes)
    second = torch.autograd.grad(number + loss, sources, allow_unused=True, materialize_grads=True)
    found = {"value": y.detach(), **{f"{name}, once": g for name, g in zip(names, first, strict=True)}}
    return {**found, **{f"{name}, twice": g for name, g in zip(names, second, strict=True)}}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item()) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name], value, rtol=0.0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("channels", [8, 24, 64])
@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_the_modules(case: str, channels: int, norm: bool) -> None:
    torch.manual_seed(0)
    fused, plain, inputs, weights = CASES[case](channels, norm)
    expected = derivatives(plain, inputs, weights)
    assert all(value.abs().max() > 0 for name, value in expected.items() if "input 3" not in name)
    assert_same(derivatives(fused, inputs, weights), expected, 1e-11)


@pytest.mark.parametrize("case", ["edges", "bonds", "angles"])
def test_derivatives_are_those_of_differences(case: str) -> None:
    """By inputs that change the message; without weights, which have no second ones among themselves."""
    torch.manual_seed(0)
    fused, _, inputs, weights = CASES[case](8, True)
    weights.requires_grad_(False)
    assert torch.autograd.gradcheck(fused, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(fused, inputs, fast_mode=True)


def graphs(dtype: torch.dtype, names: tuple[str, ...] = ("lone_atom", "tiny_cell", "water")) -> Graph:
    found = []
    for name in names:
        atoms = systems.ALL[name]()
        structure = check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        found.append(build_graph(structure, 6.0, 3.0).to(dtype=dtype))
    return batch(found)


def model_of(channels: int, dtype: torch.dtype, *, norm: bool = True, readout: str = "gradient") -> CHGNet:
    config = replace(SMALL, channels=channels, norm=norm, output_bias=not norm, readout=readout)
    return random_chgnet(config).to(dtype=dtype).requires_grad_(True)


def step(model: CHGNet, graph: Graph) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss on all of them."""
    model.zero_grad()
    outputs = evaluate(model, graph, training=True)
    virial, magmoms = outputs.virial, outputs.magmoms
    assert outputs.forces is not None
    assert virial is not None
    assert magmoms is not None
    loss = outputs.energy.square().sum() + outputs.forces.square().sum() + virial.square().sum() + magmoms.sum()
    loss.backward()
    found = {"energy": outputs.energy.detach(), "forces": outputs.forces.detach(), "virial": virial.detach()}
    return {**found, **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize(
    ("channels", "norm", "readout"), [(16, True, "gradient"), (8, False, "gradient"), (16, True, "direct")]
)
def test_a_model_learns_the_same(channels: int, norm: bool, readout: str) -> None:
    model, graph = model_of(channels, torch.float64, norm=norm, readout=readout), graphs(torch.float64)
    assert isinstance(model.fused(), FusedCHGNet)
    with plain_form():
        expected = step(model, graph)
    assert_same(step(model, graph), expected, 1e-10)


def test_float32_is_as_good_as_the_modules() -> None:
    model, graph = model_of(16, torch.float32), graphs(torch.float32)
    with plain_form():
        plain = step(model, graph)
        exact = step(model.double(), graphs(torch.float64))
    for name, got in step(model.float(), graph).items():
        scale = exact[name].abs().max().item()
        allowed = 3.0 * (plain[name].double() - exact[name]).abs().max().item() + 5e-6 * scale
        torch.testing.assert_close(got.double(), exact[name], rtol=0.0, atol=allowed, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_change_a_digit(dtype: torch.dtype) -> None:
    """Several blocks of messages, whose sums of weights are added in their order."""
    torch.manual_seed(0)
    count, atoms = 5000, 40
    centre = sorted_index(atoms, count)
    index = torch.stack([centre, torch.randint(atoms, (count,))])
    lists = edge_lists(index, torch.zeros(0, dtype=torch.int64), torch.zeros(atoms), torch.zeros(atoms))
    sizes = [(count, 16), (atoms, 32), (atoms, 32), (0, 32), (0,), (48, 16), (2, 16, 16), (2, 3, 16)]
    arguments = [torch.randn(size, dtype=dtype).requires_grad_() for size in sizes]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            y = torch.ops.uip.trained_message(*arguments, lists.tensors(), True, True)
            slopes = torch.autograd.grad(y.sum(), arguments[:3], create_graph=True)
            number = sum(slope.square().sum() for slope in slopes)
            results.append([y, *torch.autograd.grad(number + y.square().sum(), arguments)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("names", [("lone_atom",), ("far_pair",), ("lone_atom", "far_pair", "water")])
def test_no_edges_and_no_angles(names: tuple[str, ...]) -> None:
    model, graph = model_of(8, torch.float64), graphs(torch.float64, names)
    with plain_form():
        expected = step(model, graph)
    got = step(model, graph)
    assert_same(got, {name: expected.get(name, torch.zeros_like(value)) for name, value in got.items()}, 1e-10)


def test_constant_weights_have_second_derivatives_where_asked_for() -> None:
    model, graph = model_of(8, torch.float64).requires_grad_(False), graphs(torch.float64, ("water",))
    inputs = {name: value for name, value in graph.tensors().items() if name in model.inputs}

    def curvature() -> Tensor:
        vector = graph.edge_vec.clone().requires_grad_()
        energy = model(**{**inputs, "edge_vec": vector}).node_energy.sum()
        (slope,) = torch.autograd.grad(energy, vector, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), vector)[0]

    with plain_form():
        expected = curvature()
    with second_derivatives():
        torch.testing.assert_close(curvature(), expected, rtol=1e-10, atol=1e-10)


def test_a_third_derivative_is_refused() -> None:
    fused, _, inputs, _ = CASES["bonds"](8, True)
    (first,) = torch.autograd.grad(fused(*inputs).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="at most twice"):
        torch.autograd.grad(first.square().sum(), inputs[:1], create_graph=True)


def test_a_derivative_of_gradients_of_weights_is_refused() -> None:
    fused, _, inputs, weights = CASES["bonds"](8, True)
    core = dict(weights.named_parameters())["core.weight"]
    (first,) = torch.autograd.grad(fused(*inputs).square().sum(), [core], create_graph=True)
    with pytest.raises(RuntimeError, match="with respect to weights must not be differentiated"):
        torch.autograd.grad(first.square().sum(), inputs[:1])


def call(**changes: Tensor) -> Tensor:
    """Messages of two edges, with some arguments changed."""
    index = torch.tensor([[0, 1], [1, 0]])
    lists = edge_lists(index, torch.zeros(0, dtype=torch.int64), torch.zeros(2), torch.zeros(2))
    arguments = {"x": torch.zeros(2, 8), "first": torch.zeros(2, 16), "second": torch.zeros(2, 16)}
    arguments |= {"third": torch.zeros(0), "factor": torch.zeros(0), "input": torch.zeros(24, 8)}
    arguments |= {"matrices": torch.zeros(2, 8, 8), "vectors": torch.zeros(2, 3, 8), **changes}
    y: Tensor = torch.ops.uip.trained_message(*arguments.values(), lists.tensors(), True, True)
    return y


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 7)}, "multiples of 8 channels and inputs"),
        ({"x": torch.zeros(3, 8)}, "each of 3 messages"),
        ({"x": torch.zeros(2, 8).double()}, "one dtype"),
        ({"first": torch.zeros(2, 16).half()}, "float32 or float64"),
        ({"input": torch.zeros(32, 8)}, r"W \(2 C or 3 C, K\)"),
        ({"factor": torch.zeros(2, 8)}, "no other factor"),
        ({"input": torch.zeros(16, 8), "factor": torch.zeros(2, 8)}, "columns belong to one centre"),
        ({"vectors": torch.zeros(2, 2, 8)}, r"vectors \(2, 3, C\)"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Tensor], message: str) -> None:
    assert call().shape == (2, 8)
    with pytest.raises(RuntimeError, match=message):
        call(**changes)


def test_lists_name() -> None:
    """The op reads lists by their place."""
    assert list(Lists.__dataclass_fields__) == ["row", "column", "slot", "offsets", "column_offsets", "by_column"]
