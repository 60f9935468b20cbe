"""The three collectives that models call: `ghost_gather`, `reverse_edges`, `all_gather`.

    ghost_gather   owned rows -> owned rows + ghost rows        adjoint: ghost rows are added to their owners
    reverse_edges  row of (i -> j) becomes the row of (j -> i)  adjoint: itself
    all_gather     rows of all ranks in rank order              adjoint: reduce-scatter

and `attend`, attention over the atoms of all ranks, which does its own communication. Models do not use their rank.
In a serial run the three are the identity, an index lookup and the identity. During export (`use_ops`) they are the ops
of libuip (csrc/ops.cpp), which become part of the program; the engine (LAMMPS, OpenMM) implements the communication. In
a parallel run from Python (`use_communicator`) they are the same ops, with a `Communicator` for the communication.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from uip.ops.attention import Radial
from uip.parallel.library import load_library

EDGES, BONDS = 0, 1
"""Values of `relation`: `reverse_edges` acts on all edges, or on bonds (`uip::Relation` in csrc/comm.h)."""

_ops_in_use = False


def ghost_gather(x: Tensor, rows_like: Tensor) -> Tensor:
    """Rows of owned atoms, (N, C), to rows of owned atoms and ghosts, (R, C); `rows_like` has R rows."""
    return torch.ops.uip.ghost_gather(x, rows_like) if _ops_in_use else x


def reverse_edges(x: Tensor, reverse: Tensor, relation: int = EDGES) -> Tensor:
    """Row k of the result is row `reverse[k]` of `x`: the row of the opposite direction of edge (or bond) k."""
    return torch.ops.uip.reverse_edges(x, reverse, relation) if _ops_in_use else x.index_select(0, reverse)


def all_gather(x: Tensor, total_like: Tensor) -> Tensor:
    """Rows of this rank, (N, C), to rows of all ranks in rank order; `total_like` has as many rows."""
    return torch.ops.uip.all_gather(x, total_like) if _ops_in_use else x


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph_index: Tensor,
    heads: int,
    radial: Radial | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Attention of this rank's atoms to the atoms of all ranks, (N, H); formula and arguments: `uip.ops.attention`.

    Memory is linear in N, on one rank and on many. First derivatives only, with respect to q, k, v and the geometry.
    """
    load_library()
    if radial is None:
        return torch.ops.uip.attend(q, k, v, graph_index, heads, sink)[0]
    strain = radial.positions.new_zeros(0) if radial.strain is None else radial.strain
    where = (radial.weight, radial.positions, strain, radial.cell, radial.pbc)
    return torch.ops.uip.attend_radial(q, k, v, graph_index, heads, *where, sink)[0]


@contextmanager
def use_ops() -> Iterator[None]:
    """Within the context, the collectives are ops of libuip, so that programs traced here can run on many ranks."""
    global _ops_in_use
    load_library()
    before, _ops_in_use = _ops_in_use, True
    try:
        yield
    finally:
        _ops_in_use = before


class Communicator(Protocol):
    """Communication of rows between ranks, as `uip::Comm` in csrc/comm.h. All ranks must call each function."""

    def ghost_gather(self, x: Tensor, num_rows: int) -> Tensor: ...

    def ghost_reduce(self, x: Tensor, num_owned: int) -> Tensor: ...

    def reverse_edges(self, x: Tensor, reverse: Tensor, relation: int) -> Tensor: ...

    def all_gather(self, x: Tensor, num_total: int) -> Tensor: ...

    def reduce_scatter(self, x: Tensor, num_owned: int) -> Tensor: ...

    def rank_layout(self, x: Tensor) -> Tensor: ...

    def ring_shift(self, x: Tensor, num_rows: int) -> Tensor: ...


@contextmanager
def use_communicator(communicator: Communicator) -> Iterator[None]:
    """Within the context, libuip's ops communicate through `communicator`, in eager models and in loaded programs."""
    kernels = {
        "ghost_gather": lambda x, rows_like: communicator.ghost_gather(x, rows_like.shape[0]),
        "ghost_reduce": lambda x, owned_like: communicator.ghost_reduce(x, owned_like.shape[0]),
        "reverse_edges": communicator.reverse_edges,
        "all_gather": lambda x, total_like: communicator.all_gather(x, total_like.shape[0]),
        "reduce_scatter": lambda x, owned_like: communicator.reduce_scatter(x, owned_like.shape[0]),
        "rank_layout": communicator.rank_layout,
        "ring_shift": communicator.ring_shift,
    }
    with use_ops():
        library = torch.library.Library("uip", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that kernels are overridden, which is the intention
            for name, kernel in kernels.items():
                for device in ("CPU", "CUDA"):
                    library.impl(name, kernel, device, allow_override=True)
        try:
            yield
        finally:
            library._destroy()
