"""The three words with which a model talks to other ranks.

    ghost_gather   owned rows -> owned rows + ghost rows       adjoint: ghost rows are added to their owners
    reverse_edges  row of (i -> j) becomes the row of (j -> i)  adjoint: itself
    all_gather     rows of all ranks in rank order             adjoint: reduce-scatter

A model calls these and never asks for a rank. In a serial run, which is all this build knows, they
are the identity, an index lookup and the identity.
"""

from __future__ import annotations

from torch import Tensor

EDGES, BONDS = 0, 1
"""Which list `reverse_edges` speaks of: all edges, or bonds (`uip::Relation` in csrc/comm.h)."""


def ghost_gather(x: Tensor, rows_like: Tensor) -> Tensor:
    """Rows of owned atoms, (N, C), to rows of owned atoms and ghosts, (R, C); `rows_like` has R rows."""
    return x


def reverse_edges(x: Tensor, reverse: Tensor, relation: int = EDGES) -> Tensor:
    """Row k of the result is row `reverse[k]` of `x`: what the opposite direction of edge (or bond) k carries."""
    return x.index_select(0, reverse)


def all_gather(x: Tensor, total_like: Tensor) -> Tensor:
    """Rows of this rank, (N, C), to rows of all ranks in rank order; `total_like` has as many rows."""
    return x
