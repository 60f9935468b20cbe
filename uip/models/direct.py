"""Direct readout: the gradient of the energy is predicted, so that training needs no second derivatives.

    g_e = s_e edge_vec_e / |edge_vec_e|,      s_e = W (G([v_i, e_ij, v_j]) * w_ij),      e = (i -> j)

g replaces dE / d edge_vec; forces and virial follow by the same scatter (`uip.graph.batch`). Direct forces are
equivariant under rotations, sum to zero and vanish smoothly at the cutoff, and the stress is symmetric. They are
not the derivative of the energy (`conservative` is false): use them for fast training, then switch to
`readout = "gradient"`. They are not suitable for constant-energy dynamics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uip.nn.mlp import GatedMLP
from uip.ops.segment_sum import Segments


class DirectGradient(nn.Module):
    """Atom and edge features to g, (E, 3) eV/A."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.message = GatedMLP(3, channels, hidden=True, norm=norm)
        self.output = nn.Linear(channels, 1, bias=False)

    def edge_part(self, radial: Tensor, embedding: Tensor) -> Tensor:
        """Contribution of initial edge features to the first layer, with bias: (E, num_radial) to (E, 2C)."""
        return F.linear(radial, self.message.weight(1) @ embedding, self.message.first.bias)

    def forward(
        self,
        v: Tensor,
        rows: Tensor,
        edge: Tensor,
        weight: Tensor,
        centres: Segments,
        neighbors: Segments,
        edge_vec: Tensor,
    ) -> Tensor:
        """`v` (N, C); `rows` (R, C): `v` and ghosts; `edge` (E, 2C): contribution of edges to the first layer;
        `weight` (E, C): w_ij."""
        centre, neighbor = self.message.project(v, 0), self.message.project(rows, 2)
        strength = self.output(self.message.message(centre, neighbor, edge, centres, neighbors) * weight)
        return strength * edge_vec / torch.linalg.vector_norm(edge_vec, dim=1, keepdim=True)
