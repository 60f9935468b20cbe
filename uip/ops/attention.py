"""Attention of every atom to all atoms of its structure, with an optional bias that depends on distance.

Letters: N atoms, h heads, d channels per head, H = h d. For each head, with sums over all j of the same graph,

    out_i = sum_j softmax_j(q_i . k_j / sqrt(d) + b_ij) v_j
    b_ij  = ln(softplus(sum_k W_k sinc(omega_k r_ij)) + 1e-6)            (radial bias, ERoPE)

r_ij is the shortest distance over all periodic images (`nearest_images`), 0 for i = j.

An optional sink is one more key in the softmax, of value 0 and with a logit s that is the same for all queries. The
weights of the atoms then add up to less than 1, and with a radial bias their sum depends on distances.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uip.ops.kernels import has_kernels
from uip.ops.recompute import recomputed

NUM_FREQUENCIES = 32
SHORTEST_WAVE, LONGEST_WAVE = math.pi / 120.0, 4.0 * math.pi
"""1/A; the smallest and largest frequency omega_k."""
TILE = 2**22
"""Largest number of logits per tile in training (with a radial bias: logits and sinc values together)."""


@functools.cache
def frequencies() -> Tensor:
    """omega_k, (32,) 1/A, evenly spaced on a logarithmic scale."""
    return torch.logspace(math.log10(SHORTEST_WAVE), math.log10(LONGEST_WAVE), NUM_FREQUENCIES, dtype=torch.float64)


@dataclass(frozen=True)
class Radial:
    """Inputs of the radial bias of one or several graphs."""

    weight: Tensor
    """(h, 32)."""
    positions: Tensor
    """(N, 3) A."""
    strain: Tensor | None
    """(N, 3, 3), zeros: strain applied to the vectors r_j - r_i of atom i; its gradient is the part of dE / d eps of
    the atom."""
    cell: Tensor
    """(B, 3, 3) A."""
    pbc: Tensor
    """(B, 3)."""

    def of_graph(self, graph: int, atoms: slice) -> Radial:
        strain = None if self.strain is None else self.strain[atoms]
        return Radial(self.weight, self.positions[atoms], strain, self.cell[graph], self.pbc[graph])

    def differentiable(self) -> dict[str, Tensor]:
        """The fields with respect to which derivatives are taken, by name."""
        given = {"weight": self.weight, "positions": self.positions, "strain": self.strain}
        return {name: value for name, value in given.items() if value is not None}

    def bias(self, rows: slice) -> Tensor:
        """b_ij for the atoms i in `rows` of one graph and all its atoms j, (h, rows, N)."""
        strain = None if self.strain is None else self.strain[rows]
        distance = shortest_distances(self.positions[rows], self.positions, strain, self.cell, self.pbc)
        omega = frequencies().to(distance)
        kernel = torch.einsum("hk,qnk->hqn", self.weight.to(distance.dtype), sinc(distance.unsqueeze(2) * omega))
        return torch.log(F.softplus(kernel) + 1e-6)


def sinc(x: Tensor) -> Tensor:
    """sin(x) / x for x >= 0, with its limit at 0."""
    small = x < 1e-4
    safe = torch.where(small, 1.0, x)
    return torch.where(small, 1.0 - x * x / 6.0, torch.sin(safe) / safe)


def shortest_distances(from_: Tensor, to: Tensor, strain: Tensor | None, cell: Tensor, pbc: Tensor) -> Tensor:
    """Distances (Q, N) A from positions (Q, 3) to the nearest images of positions (N, 3); strain (Q, 3, 3) or None."""
    vectors = to.unsqueeze(0) - from_.unsqueeze(1)
    vectors = vectors + nearest_images(vectors.detach(), cell, pbc)
    if strain is not None:
        vectors = vectors + torch.einsum("qna,qab->qnb", vectors, strain)
    return vectors.square().sum(2).clamp(min=1e-12).sqrt()


def nearest_images(vectors: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """Lattice vectors to add to vectors (..., 3) A to get their shortest periodic images."""
    if not bool(pbc.any()):
        return torch.zeros_like(vectors)
    lattice = cell * pbc.to(cell.dtype).unsqueeze(1)
    inverse = torch.linalg.pinv(lattice)
    shift = -torch.round(vectors @ inverse) @ lattice
    others = candidate_shifts(cell, pbc)
    if others.shape[0] == 0:
        return shift
    best, least = shift, (vectors + shift).square().sum(-1)
    for other in others.to(vectors):
        moved = shift + other
        length = (vectors + moved).square().sum(-1)
        nearer = length < least
        best, least = torch.where(nearer.unsqueeze(-1), moved, best), torch.where(nearer, length, least)
    return best


def candidate_shifts(cell: Tensor, pbc: Tensor) -> Tensor:
    """Lattice vectors (n, 3) A that can shorten a vector with fractional coordinates in [-1/2, 1/2]; empty for an
    orthogonal cell.

    t = n C shortens some d = f C iff |t|^2 < max_f 2 |f . C t| = sum_a |(C t)_a|.
    """
    lattice = cell.detach().to(device="cpu", dtype=torch.float64) * pbc.cpu().to(torch.float64).unsqueeze(1)
    rows = lattice[pbc.cpu()]
    longest = float(rows.norm(dim=1).sum())
    steps = torch.linalg.pinv(lattice).norm(dim=0)  # 1 / distance between lattice planes
    reach = [math.floor(longest * float(steps[a]) / 2 + 0.5 + 1e-9) if bool(pbc[a]) else 0 for a in range(3)]
    numbers = torch.tensor(list(itertools.product(*(range(-n, n + 1) for n in reach))), dtype=torch.float64)
    shifts = numbers @ lattice
    square = shifts.square().sum(1)
    helps = square < (shifts @ lattice.mT).abs().sum(1) * (1.0 - 1e-12)
    return shifts[helps & (square > 0)]


def attend_double_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph_index: Tensor,
    heads: int,
    radial: Radial | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """out (N, H) from q, k, v (N, H), differentiable twice; `graph_index` (N,) ascending; `sink` (h,): logits s.

    For graphs with up to `TILE` logits the N x N matrices are stored for the backward pass. For larger graphs only the
    arguments are stored, and the matrices are recomputed in tiles of `TILE` logits. On CUDA tensors, without sink,
    kernels store nothing of size N x N (`uip.ops.cuda.attention`).
    """
    if has_kernels(q) and sink is None:
        return _attend_with_kernels(q, k, v, graph_index, heads, radial)
    parts = []
    for graph, atoms in enumerate(_atoms_of_graphs(graph_index)):
        query, key, value = (x[atoms].unflatten(1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
        bias = None if radial is None else radial.of_graph(graph, atoms)
        parts.append(_attend_one(query, key, value, bias, sink).transpose(0, 1).flatten(1))
    return torch.cat(parts) if parts else torch.zeros_like(q)


def _attend_with_kernels(
    q: Tensor, k: Tensor, v: Tensor, graph_index: Tensor, heads: int, radial: Radial | None
) -> Tensor:
    from uip.ops.cuda.attention import attend

    sides = (torch.searchsorted(graph_index, graph_index, right=right) for right in (False, True))
    bounds = torch.stack(list(sides))
    if radial is None:
        none = [q.new_empty(0, *shape) for shape in ((NUM_FREQUENCIES,), (3,), (3, 3))]
        cells = [q.new_empty(0, *shape) for shape in ((3, 3), (3, 3), (0, 3), ())]
        return attend(q, k, v, *none, [bounds, graph_index, *cells], heads)[0]
    positions = radial.positions
    strain = positions.new_empty(0, 3, 3) if radial.strain is None else radial.strain
    lattice = radial.cell * radial.pbc.to(radial.cell.dtype).unsqueeze(2)
    shifts = [candidate_shifts(cell, pbc) for cell, pbc in zip(radial.cell, radial.pbc, strict=True)]
    cells = [lattice, torch.linalg.pinv(lattice), torch.nn.utils.rnn.pad_sequence(shifts, batch_first=True)]
    lists = [x.to(positions).contiguous() for x in (*cells, frequencies())]
    return attend(q, k, v, radial.weight, positions, strain, [bounds, graph_index, *lists], heads)[0]


def _attend_one(q: Tensor, k: Tensor, v: Tensor, radial: Radial | None, sink: Tensor | None) -> Tensor:
    """One graph: (h, N, d) each."""
    heads, num_atoms, _ = q.shape
    row = num_atoms * (heads if radial is None else heads + NUM_FREQUENCIES)
    size = max(1, TILE // max(1, row))
    if size >= num_atoms:
        return _attend_rows(q, k, v, radial, sink, slice(None))
    differentiable = {} if radial is None else radial.differentiable()
    if sink is not None:
        differentiable["sink"] = sink
    parts = []
    for tile, query in enumerate(q.split(size, dim=1)):
        rows = slice(tile * size, (tile + 1) * size)
        function = functools.partial(_attend_tile, radial, rows, tuple(differentiable))
        parts.append(recomputed(function, query, k, v, *differentiable.values()))
    return torch.cat(parts, dim=1)


def _attend_tile(
    radial: Radial | None,
    rows: slice,
    names: tuple[str, ...],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *differentiable: Tensor,
) -> Tensor:
    """`_attend_rows` as a function of all tensors with respect to which derivatives are taken.

    `names` of `differentiable`: fields of `radial`, "sink".
    """
    values = dict(zip(names, differentiable, strict=True))
    sink = values.pop("sink", None)
    return _attend_rows(q, k, v, None if radial is None else replace(radial, **values), sink, rows)


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, radial: Radial | None, sink: Tensor | None, rows: slice) -> Tensor:
    """(h, Q, d) from the queries (h, Q, d) of the atoms `rows` and the keys and values (h, N, d) of all atoms."""
    logits = q @ k.mT / math.sqrt(q.shape[2])
    if radial is not None:
        logits = logits + radial.bias(rows)
    if sink is None:
        return torch.softmax(logits, dim=2) @ v
    of_sink = sink.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    return torch.softmax(torch.cat([logits, of_sink], dim=2), dim=2)[:, :, :-1] @ v


def _atoms_of_graphs(graph_index: Tensor) -> Iterator[slice]:
    ends = np.cumsum(torch.bincount(graph_index).cpu().numpy())
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        yield slice(start, end)
