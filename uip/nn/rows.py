"""Attention within rows of tokens: the neighbourhood attention of AllScAIP.

Letters: N atoms, S bonds, T = N + S tokens (atoms first, then bonds), W = K + 1 slots of the longest row, h heads,
d channels of a head, H = h d. Tokens are stored without padding; for the products of queries and keys alone they are
spread over a padded table (N W, H). With the angular encoding, channels c of degree l(c),

    q_a . k_b = sum_c P_l(c)(cos angle between bonds a and b) q_ac k_bc

which is what repeating each channel 2 l + 1 times and multiplying with Y_lm of both bonds amounts to, at a fifth of
the work (addition theorem).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.spherical import legendre
from uip.ops.recompute import recomputed

NEVER = -1e9
"""Logit of an empty slot."""


@dataclass(frozen=True)
class Rows:
    """Which token stands in which slot, and what attention within rows needs."""

    tokens: Tensor
    """(N W,) token in each slot; the first of a row is the atom's own; an empty slot repeats it."""
    slots: Tensor
    """(T,) slot of each token."""
    filled: Tensor
    """(N W, 1) 1, or 0 where a slot is empty."""
    bias: Tensor
    """(N, W) ln w; `NEVER` for empty slots."""
    legendre: list[Tensor] | None
    """By degree, (N, W W): P_l of the angle between two bonds; 0 where a token has no direction and l > 0."""

    @property
    def num_atoms(self) -> int:
        return self.bias.shape[0]

    @property
    def width(self) -> int:
        return self.bias.shape[1]


def make_rows(log_weight: Tensor, direction: Tensor, bond_slots: Tensor, num_degrees: int) -> Rows:
    """Rows of bonds with ln w (S,) and unit vectors (S, 3); `bond_slots` (N, K) as in `uip.schema`.

    Args:
        num_degrees: of the angular encoding; 0: none.
    """
    num_atoms, width = bond_slots.shape[0], bond_slots.shape[1] + 1
    empty = bond_slots < 0
    atoms = torch.arange(num_atoms, device=bond_slots.device).unsqueeze(1)
    tokens = torch.cat([atoms, torch.where(empty, atoms, num_atoms + bond_slots)], dim=1)
    slots = torch.arange(num_atoms * width, device=bond_slots.device).view(num_atoms, width)
    num_bonds = log_weight.shape[0]
    place = torch.where(empty, num_bonds, bond_slots).flatten()
    of_bonds = slots.new_zeros(num_bonds + 1).scatter(0, place, slots[:, 1:].flatten())[:num_bonds]
    empty = F.pad(empty, (1, 0))
    bias = F.pad(log_weight, (num_atoms, 0)).index_select(0, tokens.flatten()).view(num_atoms, width)
    return Rows(
        tokens=tokens.flatten(),
        slots=torch.cat([slots[:, 0], of_bonds]),
        filled=torch.logical_not(empty).to(bias.dtype).view(-1, 1),
        bias=bias.masked_fill(empty, NEVER),
        legendre=_legendre(direction, tokens, num_degrees) if num_degrees else None,
    )


PART = 128
"""Atoms whose rows are worked on at a time where layers are recomputed: the rest of memory is then what layers keep."""


@dataclass(frozen=True)
class Part:
    """Rows of some atoms; their tokens are those atoms' own and those bonds'."""

    rows: Rows
    atoms: slice
    bonds: slice


@dataclass(frozen=True)
class Table:
    """All rows, and how layers go through them: at once, or part by part, each part recomputed for its gradient."""

    parts: list[Part]
    num_atoms: int
    recompute: bool

    def map_rows(self, layer: Callable[[Tensor, Rows], Tensor], x: Tensor, *modules: nn.Module) -> Tensor:
        """`layer`, with the weights of `modules`, (tokens, rows) to tokens, or to atoms' own alone; `x` (T, H)."""
        if not self.recompute:
            return layer(x, self.parts[0].rows)
        own, others = [], []
        for part in self.parts:
            rows, tokens = part.rows, torch.cat([x[part.atoms], x[self.num_atoms :][part.bonds]])
            y = recomputed(
                lambda tokens, bias, *p, rows=rows: layer(tokens, replace(rows, bias=bias, legendre=list(p) or None)),
                tokens,
                rows.bias,
                *(rows.legendre or ()),
                weights=moving_weights(modules),
            )
            own.append(y[: rows.num_atoms])
            others.append(y[rows.num_atoms :])
        return torch.cat([*own, *others])

    def map_bonds(self, layer: Callable[..., Tensor], tensors: Sequence[Tensor], *modules: nn.Module) -> Tensor:
        """`layer`, with the weights of `modules`, of tensors with S rows to S rows."""
        if not self.recompute:
            return layer(*tensors)
        weights = moving_weights(modules)
        return torch.cat([recomputed(layer, *(x[part.bonds] for x in tensors), weights=weights) for part in self.parts])

    def map_atoms(self, layer: Callable[[Tensor], Tensor], v: Tensor, *modules: nn.Module) -> Tensor:
        """`layer`, with the weights of `modules`, of (N, H), all atoms at once."""
        return recomputed(layer, v, weights=moving_weights(modules)) if self.recompute else layer(v)


def moving_weights(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Those that derivatives are taken of: of modules in training alone."""
    return [weight for module in modules if module.training for weight in module.parameters()]


def make_table(
    log_weight: Tensor, direction: Tensor, bond_slots: Tensor, num_degrees: int, *, recompute: bool
) -> Table:
    """Arguments as of `make_rows`; bonds are sorted by their centres, so that rows of neighbouring atoms are too."""
    num_atoms = bond_slots.shape[0]
    if not recompute or not isinstance(num_atoms, int) or num_atoms == 0:  # a traced program has no numbers yet
        whole = Part(make_rows(log_weight, direction, bond_slots, num_degrees), slice(None), slice(None))
        return Table([whole], num_atoms, recompute)
    ends = (bond_slots >= 0).sum(1).cumsum(0).tolist()
    parts = []
    for start in range(0, num_atoms, PART):
        atoms = slice(start, min(start + PART, num_atoms))
        bonds = slice(ends[start - 1] if start else 0, ends[atoms.stop - 1])
        slots = torch.where(bond_slots[atoms] < 0, -1, bond_slots[atoms] - bonds.start)
        parts.append(Part(make_rows(log_weight[bonds], direction[bonds], slots, num_degrees), atoms, bonds))
    return Table(parts, num_atoms, recompute)


def _legendre(direction: Tensor, tokens: Tensor, num_degrees: int) -> list[Tensor]:
    num_atoms = tokens.shape[0]
    directions = F.pad(direction, (0, 0, num_atoms, 0)).index_select(0, tokens.flatten()).view(*tokens.shape, 3)
    cosine = torch.bmm(directions, directions.mT)
    has_direction = (tokens >= num_atoms).to(cosine.dtype)
    both = has_direction.unsqueeze(2) * has_direction.unsqueeze(1)
    first, *others = legendre(cosine, num_degrees - 1)
    return [part.flatten(1) for part in (first, *(both * other for other in others))]


class _Spread(torch.autograd.Function):
    """Tokens (T, C) to slots (N W, C). No gradient reaches an empty slot, so the adjoint collects the others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, slots, filled)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return collect(gradient, *ctx.saved_tensors), None, None, None


class _Collect(torch.autograd.Function):
    """Slots (N W, C) to tokens (T, C); the adjoint spreads them, with zeros in empty slots."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, slots, filled)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, slots, filled = ctx.saved_tensors
        return spread(gradient, tokens, slots, filled) * filled.to(gradient.dtype), None, None, None


def spread(x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
    """(T, C) to (N W, C): both directions are plain gathers, of any order of derivative."""
    return _Spread.apply(x, tokens, slots, filled)


def collect(x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
    """(N W, C) to (T, C)."""
    return _Collect.apply(x, tokens, slots, filled)


class RowAttention(nn.Module):
    """Tokens of a row attend to each other: (T, H) to what is added to them, (T, H).

    Args:
        degrees: channels of a head for each degree of the angular encoding.
        scale: what the result is multiplied with at the start of training.
    """

    def __init__(self, channels: int, heads: int, degrees: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.channels, self.heads, self.degrees = channels, heads, degrees
        self.norm = nn.RMSNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        q, k, v = self._by_head(self.qkv(self.norm(x)), rows)
        context = self._joined(self._attend(q, k, v, rows), rows.num_atoms)
        return self.scale * self.output(collect(context, rows.tokens, rows.slots, rows.filled))

    def of_atoms(self, x: Tensor, rows: Rows) -> Tensor:
        """Only what is added to the atoms' own tokens, (N, H)."""
        normed, channels = self.norm(x), self.channels
        q = F.linear(normed[: rows.num_atoms], self.qkv.weight[:channels], self.qkv.bias[:channels])
        k, v = self._by_head(F.linear(normed, self.qkv.weight[channels:], self.qkv.bias[channels:]), rows)
        context = self._attend(q.reshape(-1, 1, channels // self.heads), k, v, rows)
        return self.scale * self.output(self._joined(context, rows.num_atoms))

    def _by_head(self, x: Tensor, rows: Rows) -> list[Tensor]:
        """(T, n H) to n of (N h, W, d)."""
        number, size = x.shape[1] // self.channels, self.channels // self.heads
        table = spread(x, rows.tokens, rows.slots, rows.filled)
        table = table.view(rows.num_atoms, rows.width, number, self.heads, size).permute(2, 0, 3, 1, 4)
        parts = table.reshape(number, rows.num_atoms * self.heads, rows.width * size).unbind(0)
        return [part.unflatten(1, (rows.width, size)) for part in parts]

    def _joined(self, x: Tensor, num_atoms: int) -> Tensor:
        """(N h, Q, d) to (N Q, H)."""
        # five axes: with four, torch.export asks about the order of their strides
        table = x.view(1, num_atoms, self.heads, x.shape[1], x.shape[2]).permute(0, 1, 3, 2, 4)
        return table.reshape(num_atoms * x.shape[1], self.channels)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
        """(N h, Q, d) of the first Q queries (N h, Q, d) and all keys and values (N h, W, d) of each row."""
        q = q / math.sqrt(q.shape[2])
        logits = torch.bmm(q, k.mT) if rows.legendre is None else self._angular_logits(q, k, rows.legendre)
        bias = rows.bias.unsqueeze(1).expand(-1, self.heads, -1).reshape(-1, 1, rows.width)
        weights = torch.softmax((logits + bias).to(bias.dtype), dim=2).to(v.dtype)
        return torch.bmm(weights, v)

    def _angular_logits(self, q: Tensor, k: Tensor, by_degree: list[Tensor]) -> Tensor:
        """(N h, Q, W)."""
        size = q.shape[1] * k.shape[1]
        logits = q.new_zeros(())
        for p, a, b in zip(by_degree, q.split(self.degrees, dim=2), k.split(self.degrees, dim=2), strict=True):
            product = torch.bmm(a, b.mT).view(p.shape[0], self.heads, size)
            logits = logits + product * p[:, :size].unsqueeze(1)
        return logits.view(-1, q.shape[1], k.shape[1])
