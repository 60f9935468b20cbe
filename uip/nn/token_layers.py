"""The layers of AllScAIP that work on every token, each in two forms.

Letters: N atoms, S bonds, T = N + S tokens (atoms' own first, then bonds'), H channels, F = 2 H.

Training differentiates twice, with respect to weights too: plain operations of torch. Inference needs first derivatives
with respect to the geometry alone: ops of libuip (`uip/csrc/row_layer.h`, `feed_forward.h`), which work on tiles of
tokens that stay near the processor, and keep little more than what enters a layer.
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
    """How layers are computed where only first derivatives with respect to the geometry are wanted."""

    keep: bool
    """Keep queries, keys, values and hidden layers for the derivative: more memory, a quarter less time."""
    bfloat16: bool
    """Products of weights and tokens in bfloat16, summed in float32, as are norms, softmax and tokens themselves."""


@dataclass(frozen=True)
class Geometry:
    """What layers of tokens read of bonds, and in which form they are computed."""

    log_weight: Tensor
    """(S,) ln w."""
    direction: Tensor
    """(S, 3), unit vectors."""
    bond_slots: Tensor
    """(N, K) as in `uip.schema`."""
    num_degrees: int
    """Of the angular encoding; 0: none."""
    inference: InferenceOptions | None
    """None: training."""
    recompute: bool
    """In training: keep what enters a layer alone, and compute the rest again for derivatives."""

    @cached_property
    def rows(self) -> Rows:
        """For the plain form."""
        return make_rows(self.log_weight, self.direction, self.bond_slots, self.num_degrees)

    def apply_layer(self, layer: Callable[[Tensor, Rows], Tensor], x: Tensor, weights: Iterable[Tensor]) -> Tensor:
        """`layer(x, rows)` of those weights, in the plain form."""
        rows = self.rows
        if not self.recompute:
            return layer(x, rows)

        def function(x: Tensor, bias: Tensor, *by_degree: Tensor) -> Tensor:
            return layer(x, replace(rows, bias=bias, legendre=list(by_degree) or None))

        return recomputed(function, x, rows.bias, *(rows.legendre or ()), weights=weights)


class RowAttention(nn.Module):
    """Tokens of a row attend to each other; what they find is added to them.

    Args:
        degrees: channels of a head for each degree of the angular encoding.
        scale: what is added is multiplied with this at the start of training.
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
