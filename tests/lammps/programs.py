"""Model files of a few lines, for what a published model does not show: ops alone, failures on one rank.

They are TorchScript files as `uip export -o x.pt` writes them, with record and self-test.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.parallel.library import load_library
from uip.program.writer import append_record
from uip.schema import SCHEMA_VERSION

INPUTS = (
    "atomic_numbers",
    "graph_index",
    "edge_index",
    "edge_vec",
    "reverse_edge",
    "bond_index",
    "reverse_bond",
    "angle_index",
)
CUTOFF, BOND_CUTOFF = 5.0, 3.0
Triple = tuple[Tensor, Tensor, Tensor]


def write_program(program: nn.Module, path: Path, sample: Atoms, **changes: Any) -> Path:
    """Write `program`, which is self-tested with `sample`; `changes` replace entries of the record."""
    load_library()
    structure = check_structure(sample.numbers, sample.positions, sample.cell.array, sample.pbc)
    graph = build_graph(structure, CUTOFF, BOND_CUTOFF)
    inputs = {name: graph.tensors()[name] for name in changes.get("inputs", INPUTS) if name in graph.tensors()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = torch.jit.script(program)
    outputs = changes.get("outputs", ("node_energy", "edge_grad", "magmoms"))
    record = {
        "schema_version": SCHEMA_VERSION,
        "model": "test",
        "name": "test",
        "torch_version": str(torch.__version__),
        "dtype": "float64",
        "device": "cpu",
        "cutoff": CUTOFF,
        "bond_cutoff": BOND_CUTOFF,
        "elements": list(range(1, 31)),
        "inputs": list(inputs),
        "outputs": list(outputs),
        "conservative": True,
        "parallel": True,
        "instructions": "",
        "licence": "",
        "theory": "",
        "reference": "",
        "provenance": "",
        **changes,
    }
    if "self_tests" not in record:
        answers = dict(zip(outputs, script(*inputs.values()), strict=True))
        record["self_tests"] = [{"inputs": inputs, "outputs": answers}]
    script.save(str(path))
    append_record(path, record)
    return path


def numbers(rows: int, columns: int, seed: float) -> Tensor:
    """Rows of numbers without pattern, the same for the same arguments."""
    k = torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns)
    return torch.sin(seed + 1.7 * k + 0.01 * k * k)


def on_first(value: Tensor, num_atoms: int) -> Tensor:
    """`value`, a number, as the value of the first atom; it is zero where there is no atom."""
    total = torch.zeros(num_atoms, dtype=torch.float64)
    if num_atoms > 0:
        total[0] = value
    return total


class Adjoint(nn.Module):
    """node_energy sums over ranks to <A x, y> - <x, A' y> for one of the primitives, magmoms to <A x, y>."""

    def __init__(self, primitive: str, num_total: int) -> None:
        super().__init__()
        self.primitive, self.num_total = primitive, num_total

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        n, r, e, s = graph_index.shape[0], atomic_numbers.shape[0], edge_vec.shape[0], bond_index.shape[0]
        x, y = numbers(n, 3, 1.0), numbers(r, 3, 2.0)
        if self.primitive == "ghosts":
            ax, ay = torch.ops.uip.ghost_gather(x, atomic_numbers), torch.ops.uip.ghost_reduce(y, graph_index)
        elif self.primitive == "edges":
            x, y = numbers(e, 3, 1.0), numbers(e, 3, 2.0)
            ax = torch.ops.uip.reverse_edges(x, reverse_edge, 0)
            ay = torch.ops.uip.reverse_edges(y, reverse_edge, 0)
        elif self.primitive == "bonds":
            x, y = numbers(s, 3, 1.0), numbers(s, 3, 2.0)
            ax = torch.ops.uip.reverse_edges(x, reverse_bond, 1)
            ay = torch.ops.uip.reverse_edges(y, reverse_bond, 1)
        else:
            # a rank without atoms has no place for its part of the sum: its y is zero
            y = numbers(self.num_total, 3, 2.0) * float(n > 0)
            ax = torch.ops.uip.all_gather(x, y)
            ay = torch.ops.uip.reduce_scatter(y, graph_index)
        left, right = (ax * y).sum(), (x * ay).sum()
        return on_first(left - right, n), torch.zeros_like(edge_vec), on_first(left, n)


class Opposite(nn.Module):
    """node_energy sums to the squares of what should vanish: each edge's vector plus that of its opposite."""

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        n = graph_index.shape[0]
        bond_vec = edge_vec.index_select(0, bond_index)
        over_edges = edge_vec + torch.ops.uip.reverse_edges(edge_vec, reverse_edge, 0)
        over_bonds = bond_vec + torch.ops.uip.reverse_edges(bond_vec, reverse_bond, 1)
        square = (over_edges * over_edges).sum() + (over_bonds * over_bonds).sum()
        return on_first(square, n), torch.zeros_like(edge_vec), on_first((edge_vec * edge_vec).sum(), n)


class Failing(nn.Module):
    """Fails on ranks that own between 1 and `most` atoms, after the others have begun to wait for them."""

    def __init__(self, how: str, most: int) -> None:
        super().__init__()
        self.how, self.most = how, most

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        n = graph_index.shape[0]
        energy = torch.zeros(n, dtype=torch.float64)
        gradient = torch.zeros_like(edge_vec)
        if n > 0 and n <= self.most:
            if self.how == "raise":
                raise RuntimeError("a deliberate failure")
            if self.how == "memory":
                energy = energy + torch.zeros(1 << 50).sum()
            if self.how == "energy":
                energy = energy / 0.0 * 0.0
            if self.how == "forces":
                gradient = gradient + float("nan")
        rows = torch.ops.uip.ghost_gather(energy.unsqueeze(1), atomic_numbers)
        return energy + 0.0 * rows.sum(), gradient, torch.zeros_like(energy)


class Decaying(nn.Module):
    """A potential of edges, 0.5 strength (1 + Z / 10) exp(-r / length) with Z of the centre; moments are energies."""

    def __init__(self, strength: float, length: float) -> None:
        super().__init__()
        self.strength, self.length = strength, length

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        r = edge_vec.pow(2).sum(1).sqrt()
        scale = 0.5 * self.strength * (1.0 + 0.1 * atomic_numbers.index_select(0, edge_index[0]))
        energy = scale * torch.exp(-r / self.length)
        node_energy = torch.zeros(graph_index.shape[0], dtype=torch.float64).index_add(0, edge_index[0], energy)
        return node_energy, (-energy / self.length / r).unsqueeze(1) * edge_vec, node_energy


class Uncertain(nn.Module):
    """A potential of edges, exp(-r), with uncertainty vectors of atoms: exp(-r) (1, r (Z - 10)), Z of the centre,
    summed over its edges."""

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        r = edge_vec.pow(2).sum(1).sqrt()
        energy, centre = torch.exp(-r), edge_index[0]
        values = torch.stack([energy, energy * r * (atomic_numbers[centre] - 10)], dim=1)
        vectors = torch.zeros((graph_index.shape[0], 2), dtype=torch.float64).index_add(0, centre, values)
        return vectors[:, 0].contiguous(), (-energy / r).unsqueeze(1) * edge_vec, vectors


class Power(nn.Module):
    """factor r^power (eV, A) for each pair, and -2 eV for each atom."""

    def __init__(self, factor: float, power: float) -> None:
        super().__init__()
        self.factor, self.power = factor, power

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        square = edge_vec.square().sum(1)
        half = 0.5 * self.factor * square ** (0.5 * self.power)
        energy = torch.full((graph_index.shape[0],), -2.0, dtype=torch.float64).index_add(0, edge_index[0], half)
        return energy, edge_vec * (self.power * half / square).unsqueeze(1), torch.zeros_like(energy)


class DirectForces(nn.Module):
    """Forces from nowhere: (1, 0, -1) eV/A on each atom."""

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        energy = torch.zeros(graph_index.shape[0], dtype=torch.float64)
        force = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
        return energy, force.repeat(energy.shape[0], 1), energy


class Attending(nn.Module):
    """Attention and its gradient `times` over; on ranks that own between 1 and `most` atoms it fails inside.

    `how`: "raise": in the gradient, after keys have come and others wait for their gradients; "memory": in front of the
    first exchange; "": nowhere.
    """

    def __init__(self, how: str, most: int, times: int = 1) -> None:
        super().__init__()
        self.how, self.most, self.times = how, most, times

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        n = graph_index.shape[0]
        fails = n > 0 and n <= self.most
        q, k, v = numbers(n, 8, 1.0), numbers(n, 8, 2.0), numbers(n, 8, 3.0)
        if fails and self.how == "memory":
            q = k = v = torch.zeros(1, 1, dtype=torch.float64).expand(n, 1 << 45)
        energy = torch.zeros(n, dtype=torch.float64)
        for _ in range(self.times):
            out, lse = torch.ops.uip.attend(q, k, v, graph_index, 2)
            gradient = out[:, 1:] if fails and self.how == "raise" else out
            q_gradient, _, _ = torch.ops.uip.attend_backward(gradient, q, k, v, out, lse, graph_index, 2)
            energy = energy + 1e-6 * q_gradient.sum(1)
        return energy, torch.zeros_like(edge_vec), energy
