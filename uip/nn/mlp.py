"""The gated multilayer perceptron of CHGNet; callers can split its first layer into parts.

    G(z) = SiLU(LN(core(z))) * sigmoid(LN(gate(z)))        z = [z_0, z_1, ...] (a concatenation)

core and gate are packed in one matrix. The concatenation z is never formed: the first layer is a sum of
products of its parts, `project(z_k, k)`, each computed once per atom, bond or angle and then gathered;
`forward` takes the sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.ops.kernels import has_kernels
from uip.ops.segment_sum import Segments


class GatedMLP(nn.Module):
    """Sums of projections (rows, 2 C) to (rows, C).

    Args:
        num_parts: parts of the concatenated input, C channels each.
        channels: C.
        hidden: whether SiLU and a second layer follow the first.
        norm: whether core and gate are layer-normalised.
    """

    def __init__(self, num_parts: int, channels: int, *, hidden: bool, norm: bool) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Linear(num_parts * channels, 2 * channels)
        self.core = nn.Linear(channels, channels) if hidden else nn.Identity()
        self.gate = nn.Linear(channels, channels) if hidden else nn.Identity()
        self.hidden = hidden
        self.core_norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.gate_norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def weight(self, part: int) -> Tensor:
        """The columns of the first layer that act on input part `part`, (2 C, C)."""
        return self.first.weight[:, part * self.channels : (part + 1) * self.channels]

    def project(self, x: Tensor, part: int) -> Tensor:
        """Contribution of input part `part`, (rows, C), to the first layer, (rows, 2 C); without bias."""
        return F.linear(x, self.weight(part))

    def forward(self, total: Tensor) -> Tensor:
        """`total`: the sum of all projections and the bias of `first`, (rows, 2 C)."""
        if self.hidden:
            total = F.silu(total)
        core, gate = total.chunk(2, dim=1)
        core = self.core_norm(self.core(core))
        gate = self.gate_norm(self.gate(gate))
        return F.silu(core) * torch.sigmoid(gate)

    def message(self, first: Tensor, second: Tensor, each: Tensor, row: Segments, column: Segments) -> Tensor:
        """`forward` of each + first[row] + second[column], (M, C); on CUDA tensors by a kernel that forms no sum.

        Args:
            first, second: (rows, 2 C); row, column: which of their rows, (M,).
            each: (M, 2 C).
        """
        if not has_kernels(each):
            return self(each + first.index_select(0, row.index) + second.index_select(0, column.index))
        from uip.ops.cuda.gated_message import gated_message

        lists = [*row.tensors(), *column.tensors()]
        norm = isinstance(self.core_norm, nn.LayerNorm)
        return gated_message(first, second, each, lists, *self.packed(each), norm)

    def packed(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weights behind the first layer: matrices (2, C, C), or of no rows; vectors (2, 3, C): bias, scale, shift."""
        zero, one = like.new_zeros(self.channels), like.new_ones(self.channels)
        vectors, matrices = [], []
        for layer, norm in ((self.core, self.core_norm), (self.gate, self.gate_norm)):
            vectors.append(layer.bias if isinstance(layer, nn.Linear) else zero)
            vectors += [norm.weight, norm.bias] if isinstance(norm, nn.LayerNorm) else [one, zero]
            matrices += [layer.weight] if isinstance(layer, nn.Linear) else []
        packed = torch.stack(matrices) if matrices else like.new_empty(0, self.channels, self.channels)
        return packed, torch.stack(vectors).view(2, 3, self.channels)
