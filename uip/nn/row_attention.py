"""Neighbourhood attention of AllScAIP: attention within rows of tokens, in plain torch, for training.

Inference uses an op of libuip (`uip/csrc/row_layer.h`, `uip/csrc/fused_rows.h`). On CUDA tensors, without the angular
encoding, a kernel computes it without padding (`uip.ops.cuda.row_attention`).

Letters: N atoms, S bonds, T = N + S tokens (atoms first, then bonds), W = K + 1 slots of the longest row, h heads,
d channels per head, H = h d. Tokens are stored without padding; only for the products of queries and keys are they
padded to a table (N W, H). With the angular encoding, channels c of degree l(c),

    q_a . k_b = sum_c P_l(c)(cos angle between bonds a and b) q_ac k_bc

which equals repeating each channel 2 l + 1 times and multiplying with Y_lm of both bonds (addition theorem), at a
fifth of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uip.nn.spherical import legendre
from uip.ops.kernels import has_kernels

NEVER = -1e9
"""Logit of an empty slot."""
LONGEST_ROW = 128
"""Largest W of the kernel: a row is one tile."""


@dataclass(frozen=True)
class Rows:
    """The padded layout of tokens, and the other inputs of attention within rows."""

    tokens: Tensor
    """(N W,) token of each slot; the first of a row is the atom's own token, which empty slots repeat."""
    slots: Tensor
    """(T,) slot of each token."""
    filled: Tensor
    """(N W, 1) 1; 0 for an empty slot."""
    bias: Tensor
    """(N, W) ln w; `NEVER` for empty slots."""
    legendre: list[Tensor] | None
    """For each degree l, (N, W W): P_l(cos angle between two bonds); 0 where a token has no direction and l > 0."""

    @property
    def num_atoms(self) -> int:
        return self.bias.shape[0]

    @property
    def width(self) -> int:
        return self.bias.shape[1]


def make_rows(log_weight: Tensor, direction: Tensor, bond_slots: Tensor, num_degrees: int) -> Rows:
    """Rows of bonds with ln w (S,) and unit vectors (S, 3); `bond_slots` (N, K) as in `uip.schema`.

    Args:
        num_degrees: number of degrees of the angular encoding; 0: no encoding.
    """
    num_atoms, width = bond_slots.shape[0], bond_slots.shape[1] + 1
    empty = bond_slots < 0
    atoms = torch.arange(num_atoms, device=bond_slots.device).unsqueeze(1)
    tokens = torch.cat([atoms, torch.where(empty, atoms, num_atoms + bond_slots)], dim=1)
    slots = torch.arange(num_atoms * width, device=bond_slots.device).view(num_atoms, width)
    num_bonds = log_weight.shape[0]
    index = torch.where(empty, num_bonds, bond_slots).flatten()
    of_bonds = slots.new_zeros(num_bonds + 1).scatter(0, index, slots[:, 1:].flatten())[:num_bonds]
    empty = F.pad(empty, (1, 0))
    bias = F.pad(log_weight, (num_atoms, 0)).index_select(0, tokens.flatten()).view(num_atoms, width)
    return Rows(
        tokens=tokens.flatten(),
        slots=torch.cat([slots[:, 0], of_bonds]),
        filled=torch.logical_not(empty).to(bias.dtype).view(-1, 1),
        bias=bias.masked_fill(empty, NEVER),
        legendre=_legendre(direction, tokens, num_degrees) if num_degrees else None,
    )


def _legendre(direction: Tensor, tokens: Tensor, num_degrees: int) -> list[Tensor]:
    num_atoms = tokens.shape[0]
    directions = F.pad(direction, (0, 0, num_atoms, 0)).index_select(0, tokens.flatten()).view(*tokens.shape, 3)
    cosine = torch.bmm(directions, directions.mT)
    has_direction = (tokens >= num_atoms).to(cosine.dtype)
    both = has_direction.unsqueeze(2) * has_direction.unsqueeze(1)
    first, *others = legendre(cosine, num_degrees - 1)
    return [part.flatten(1) for part in (first, *(both * other for other in others))]


class _PadTokens(torch.autograd.Function):
    """Tokens (T, C) to slots (N W, C). Empty slots have no gradient, so the adjoint gathers filled slots."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, slots, filled)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return unpad_tokens(gradient, *ctx.saved_tensors), None, None, None


class _UnpadTokens(torch.autograd.Function):
    """Slots (N W, C) to tokens (T, C); the adjoint pads them with zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, slots, filled)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, slots, filled = ctx.saved_tensors
        return pad_tokens(gradient, tokens, slots, filled) * filled.to(gradient.dtype), None, None, None


def pad_tokens(x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
    """(T, C) to (N W, C); forward and backward are gathers, so it can be differentiated any number of times."""
    return _PadTokens.apply(x, tokens, slots, filled)


def unpad_tokens(x: Tensor, tokens: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
    """(N W, C) to (T, C)."""
    return _UnpadTokens.apply(x, tokens, slots, filled)


def attend_rows(x: Tensor, rows: Rows, heads: int, degrees: Sequence[int]) -> Tensor:
    """Contexts (T, H) from queries, keys and values (T, 3 H), differentiable any number of times.

    Args:
        degrees: channels per head for each degree of the angular encoding.
    """
    if _has_kernel(x, rows):
        return _with_kernel(x.chunk(3, dim=1), rows, heads, own=False)
    q, k, v = _by_head(x, rows, heads, 3)
    context = _joined(_attend(q, k, v, rows, heads, degrees), rows.num_atoms, heads)
    return unpad_tokens(context, rows.tokens, rows.slots, rows.filled)


def attend_rows_of_atoms(query: Tensor, x: Tensor, rows: Rows, heads: int, degrees: Sequence[int]) -> Tensor:
    """Contexts (N, H) from the atoms' own queries (N, H) and all keys and values (T, 2 H)."""
    if _has_kernel(x, rows):
        return _with_kernel((query, *x.chunk(2, dim=1)), rows, heads, own=True)
    k, v = _by_head(x, rows, heads, 2)
    context = _attend(query.reshape(-1, 1, query.shape[1] // heads), k, v, rows, heads, degrees)
    return _joined(context, rows.num_atoms, heads)


def _has_kernel(x: Tensor, rows: Rows) -> bool:
    """There is none for the angular encoding, nor for longer rows."""
    return has_kernels(x) and rows.legendre is None and rows.width <= LONGEST_ROW


def _with_kernel(parts: Sequence[Tensor], rows: Rows, heads: int, *, own: bool) -> Tensor:
    from uip.ops.cuda.row_attention import attend_rows as attend_rows_with_kernel

    q, k, v = parts
    return attend_rows_with_kernel(q, k, v, rows.tokens, rows.bias, heads, own)


def _by_head(x: Tensor, rows: Rows, heads: int, number: int) -> list[Tensor]:
    """(T, n H) to n of (N h, W, d)."""
    size = x.shape[1] // (number * heads)
    table = pad_tokens(x, rows.tokens, rows.slots, rows.filled)
    table = table.view(rows.num_atoms, rows.width, number, heads, size).permute(2, 0, 3, 1, 4)
    parts = table.reshape(number, rows.num_atoms * heads, rows.width * size).unbind(0)
    return [part.unflatten(1, (rows.width, size)) for part in parts]


def _joined(x: Tensor, num_atoms: int, heads: int) -> Tensor:
    """(N h, Q, d) to (N Q, H)."""
    table = x.view(num_atoms, heads, x.shape[1], x.shape[2]).permute(0, 2, 1, 3)
    return table.reshape(num_atoms * x.shape[1], heads * x.shape[2])


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Rows, heads: int, degrees: Sequence[int]) -> Tensor:
    """(N h, Q, d) from the first Q queries (N h, Q, d) and all keys and values (N h, W, d) of each row."""
    q = q / math.sqrt(q.shape[2])
    logits = torch.bmm(q, k.mT) if rows.legendre is None else _angular_logits(q, k, rows.legendre, heads, degrees)
    bias = rows.bias.unsqueeze(1).expand(-1, heads, -1).reshape(-1, 1, rows.width)
    return torch.bmm(torch.softmax(logits + bias, dim=2), v)


def _angular_logits(q: Tensor, k: Tensor, by_degree: list[Tensor], heads: int, degrees: Sequence[int]) -> Tensor:
    """(N h, Q, W)."""
    size = q.shape[1] * k.shape[1]
    logits = q.new_zeros(())
    for p, a, b in zip(by_degree, q.split(list(degrees), dim=2), k.split(list(degrees), dim=2), strict=True):
        product = torch.bmm(a, b.mT).view(p.shape[0], heads, size)
        logits = logits + product * p[:, :size].unsqueeze(1)
    return logits.view(-1, q.shape[1], k.shape[1])
