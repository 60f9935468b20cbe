"""The token layers of AllScAIP (neighbourhood attention, feed-forward), each in two forms.

Letters: N atoms, S bonds, T = N + S tokens (atoms' own first, then bonds'), H channels, F = 2 H.

Training needs second derivatives, also with respect to weights: plain torch operations. Inference needs first
derivatives with respect to the geometry only: ops of libuip (`uip/csrc/row_layer.h`, `fused_rows.h`, `feed_forward.h`),
which process tokens in tiles that fit the cache and store little more than the input of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.row_attention import Rows, attend_rows, attend_rows_of_atoms, make_rows
from uip.ops.recompute import recomputed


@dataclass(frozen=True)
class InferenceOptions:
    """Options of layers in inference, where only first derivatives with respect to the geometry are needed."""

    keep: bool
    """Store queries, keys, values, hidden layers and Gaussians for the backward pass: more memory, less time."""
    bfloat16: bool
    """Products of weights and tokens in bfloat16. Sums, norms, softmax and tokens are float32."""


@dataclass(frozen=True)
class Geometry:
    """Geometry of the bonds as token layers read it, and options of the layers."""

    log_weight: Tensor
    """(S,) ln w."""
    direction: Tensor
    """(S, 3), unit vectors."""
    bond_slots: Tensor
    """(N, K) as in `uip.schema`."""
    num_degrees: int
    """Number of degrees of the angular encoding; 0: no encoding."""
    inference: InferenceOptions | None
    """None: training."""
    recompute: bool
    """In training: store only the input of a layer and recompute the rest in backward passes."""

    @cached_property
    def rows(self) -> Rows:
        """Padded layout, for the plain torch form."""
        return make_rows(self.log_weight, self.direction, self.bond_slots, self.num_degrees)

    def apply_layer(self, layer: Callable[[Tensor, Rows], Tensor], x: Tensor, weights: Iterable[Tensor]) -> Tensor:
        """`layer(x, rows)` in the plain torch form, with activation checkpointing if `recompute`; reads `weights`."""
        rows = self.rows
        if not self.recompute:
            return layer(x, rows)

        def function(x: Tensor, bias: Tensor, *by_degree: Tensor) -> Tensor:
            return layer(x, replace(rows, bias=bias, legendre=list(by_degree) or None))

        return recomputed(function, x, rows.bias, *(rows.legendre or ()), weights=weights)


class RowAttention(nn.Module):
    """Neighbourhood attention: tokens of a row attend to each other; the result is added to them.

    Args:
        degrees: channels per head for each degree of the angular encoding.
        scale: initial value of the learned factor of the result.
    """

    def __init__(self, channels: int, heads: int, degrees: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.channels, self.heads, self.degrees = channels, heads, degrees
        self.norm = nn.RMSNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, v: Tensor, t: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Tokens of atoms (N, H) and bonds (S, H) to the same."""
        if geometry.inference is not None:
            return self._infer(v, t, geometry, geometry.inference, only_atoms=False)
        x = geometry.apply_layer(self._plain, torch.cat([v, t]), self.parameters())
        return x[: v.shape[0]], x[v.shape[0] :]

    def forward_atoms(self, v: Tensor, t: Tensor, geometry: Geometry) -> Tensor:
        """Only the atoms' own tokens, (N, H)."""
        if geometry.inference is not None:
            return self._infer(v, t, geometry, geometry.inference, only_atoms=True)[0]
        return geometry.apply_layer(self._plain_of_atoms, torch.cat([v, t]), self.parameters())

    def _plain(self, x: Tensor, rows: Rows) -> Tensor:
        """Tokens (T, H) to the same."""
        context = attend_rows(self.qkv(self.norm(x)), rows, self.heads, self.degrees)
        return x + self.scale * self.output(context)

    def _plain_of_atoms(self, x: Tensor, rows: Rows) -> Tensor:
        """Tokens (T, H) to the atoms' own (N, H)."""
        own, normed, channels = slice(rows.num_atoms), self.norm(x), self.channels
        query = F.linear(normed[own], self.qkv.weight[:channels], self.qkv.bias[:channels])
        others = F.linear(normed, self.qkv.weight[channels:], self.qkv.bias[channels:])
        context = attend_rows_of_atoms(query, others, rows, self.heads, self.degrees)
        return x[own] + self.scale * self.output(context)

    def _infer(
        self, v: Tensor, t: Tensor, geometry: Geometry, options: InferenceOptions, *, only_atoms: bool
    ) -> tuple[Tensor, Tensor]:
        qkv, output = self.qkv, self.output
        weights = [self.norm.weight, qkv.weight, qkv.bias, output.weight, output.bias, self.scale]
        degrees = self.degrees if geometry.num_degrees else (self.channels // self.heads,)
        geometry_inputs = (geometry.log_weight, geometry.direction, geometry.bond_slots)
        v, t, _ = torch.ops.uip.row_layer(
            v, t, *geometry_inputs, weights, self.heads, degrees, only_atoms, options.keep, options.bfloat16
        )
        return v, t


class FeedForward(nn.Module):
    """x + scale W2 GELU(W1 norm(x)): (rows, H) to (rows, H)."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels)
        self.first = nn.Linear(channels, 2 * channels)
        self.second = nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:
        if geometry.inference is None:
            return recomputed(self._plain, x, weights=self.parameters()) if geometry.recompute else self._plain(x)
        first, second = self.first, self.second
        weights = [self.norm.weight, first.weight, first.bias, second.weight, second.bias, self.scale]
        y: Tensor = torch.ops.uip.feed_forward(x, weights, geometry.inference.keep, geometry.inference.bfloat16)[0]
        return y

    def _plain(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(F.gelu(self.first(self.norm(x))))
