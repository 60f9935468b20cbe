"""The three words with which a model talks to other ranks.

    ghost_gather   owned rows -> owned rows + ghost rows        adjoint: ghost rows are added to their owners
    reverse_edges  row of (i -> j) becomes the row of (j -> i)  adjoint: itself
    all_gather     rows of all ranks in rank order              adjoint: reduce-scatter

and `attend`, attention over the atoms of all ranks, which gathers for itself. A model calls these and never asks for a
rank. In a serial run they are the identity, an index lookup and
the identity. While a program is exported (`use_ops`) they are the ops of libuip (csrc/ops.cpp), which the
program keeps and for which an engine carries the bytes; in a parallel run from Python (`use_communicator`)
they are the same ops, and a `Communicator` carries.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from uip.ops.attention import Radial

EDGES, BONDS = 0, 1
"""Which list `reverse_edges` speaks of: all edges, or bonds (`uip::Relation` in csrc/comm.h)."""

LIBRARY = Path(__file__).parent / "lib" / "libuip.so"

_ops_in_use = False


def ghost_gather(x: Tensor, rows_like: Tensor) -> Tensor:
    """Rows of owned atoms, (N, C), to rows of owned atoms and ghosts, (R, C); `rows_like` has R rows."""
    return torch.ops.uip.ghost_gather(x, rows_like) if _ops_in_use else x


def reverse_edges(x: Tensor, reverse: Tensor, relation: int = EDGES) -> Tensor:
    """Row k of the result is row `reverse[k]` of `x`: what the opposite direction of edge (or bond) k carries."""
    return torch.ops.uip.reverse_edges(x, reverse, relation) if _ops_in_use else x.index_select(0, reverse)


def all_gather(x: Tensor, total_like: Tensor) -> Tensor:
    """Rows of this rank, (N, C), to rows of all ranks in rank order; `total_like` has as many rows."""
    return torch.ops.uip.all_gather(x, total_like) if _ops_in_use else x


def attend(q: Tensor, k: Tensor, v: Tensor, graph_index: Tensor, heads: int, radial: Radial | None = None) -> Tensor:
    """Attention of this rank's atoms to the atoms of all ranks, (N, H); formula and arguments: `uip.ops.attention`.

    In memory that grows with N, on one rank and on many; has first derivatives only.
    """
    load_library()
    if radial is None:
        return torch.ops.uip.attend(q, k, v, graph_index, heads)[0]
    strain = radial.positions.new_zeros(0) if radial.strain is None else radial.strain
    where = (radial.weight, radial.positions, strain, radial.cell, radial.pbc)
    return torch.ops.uip.attend_radial(q, k, v, graph_index, heads, *where)[0]


@functools.cache
def load_library() -> None:
    """Load libuip: its ops become `torch.ops.uip.*`, its reader of model files `torch.classes.uip.Model`.

    Raises:
        RuntimeError: libuip is not built, or was built for another torch.
    """
    if not LIBRARY.is_file():
        raise RuntimeError(
            f"libuip must be built to export or run programs, but {LIBRARY} is missing; run 'pip install .'"
        )
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        raise RuntimeError(
            f"{LIBRARY} does not fit torch {torch.__version__} ({error}); run 'pip install .' again in this environment"
        ) from error


@contextmanager
def use_ops() -> Iterator[None]:
    """Within, the three words are calls of libuip's ops, so that programs traced here can run on many ranks."""
    global _ops_in_use
    load_library()
    before, _ops_in_use = _ops_in_use, True
    try:
        yield
    finally:
        _ops_in_use = before


class Communicator(Protocol):
    """Carries rows between ranks; as `uip::Comm` in csrc/comm.h. Every rank calls every function."""

    def ghost_gather(self, x: Tensor, num_rows: int) -> Tensor: ...

    def ghost_reduce(self, x: Tensor, num_owned: int) -> Tensor: ...

    def reverse_edges(self, x: Tensor, reverse: Tensor, relation: int) -> Tensor: ...

    def all_gather(self, x: Tensor, num_total: int) -> Tensor: ...

    def reduce_scatter(self, x: Tensor, num_owned: int) -> Tensor: ...

    def rank_layout(self, x: Tensor) -> Tensor: ...

    def ring_shift(self, x: Tensor, num_rows: int) -> Tensor: ...


@contextmanager
def use_communicator(communicator: Communicator) -> Iterator[None]:
    """Within, `communicator` carries the rows of libuip's ops: of eager models and of loaded programs alike."""
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


class RemoteRows:
    """Rows that other ranks own: who wants which, agreed once.

    Args:
        comm: an mpi4py communicator.
        owners: (K, 2) rank and row of each of the K rows that this rank wants.
    """

    def __init__(self, comm: Any, owners: np.ndarray) -> None:
        self.comm = comm
        owners = np.asarray(owners, dtype=np.int64).reshape(-1, 2)
        wanted = [np.flatnonzero(owners[:, 0] == rank) for rank in range(comm.size)]
        self.num_wanted = len(owners)
        self.places = [torch.from_numpy(places) for places in wanted]
        self.asked = [torch.from_numpy(rows) for rows in comm.alltoall([owners[places, 1] for places in wanted])]

    def fetch(self, x: Tensor) -> Tensor:
        """Rows of this rank to the rows it wants, (K, C)."""
        received = self.comm.alltoall([x.index_select(0, rows).numpy() for rows in self.asked])
        result = x.new_empty((self.num_wanted, *x.shape[1:]))
        for places, rows in zip(self.places, received, strict=True):
            result[places] = torch.from_numpy(rows)
        return result

    def add_to_owners(self, total: Tensor, x: Tensor) -> Tensor:
        """Adjoint of `fetch`: `total`, rows of this rank, plus what others hold in `x`, (K, C), for them."""
        received = self.comm.alltoall([x.index_select(0, places).numpy() for places in self.places])
        for rows, values in zip(self.asked, received, strict=True):
            total = total.index_add(0, rows, torch.from_numpy(values))
        return total


class MPICommunicator:
    """A `Communicator` over mpi4py, for tests and analysis in Python; CPU tensors, no attempt at speed.

    Args:
        comm: an mpi4py communicator.
        ghosts: (R - N, 2) rank and row of the owner of each ghost.
        partners: by relation, (E, 2) rank and row of the opposite direction of each edge.
        ring: whether attention hands keys around the ring instead of gathering them.
    """

    def __init__(
        self, comm: Any, ghosts: np.ndarray, partners: Mapping[int, np.ndarray], *, ring: bool = False
    ) -> None:
        self.comm, self.ring = comm, ring
        self.ghosts = RemoteRows(comm, ghosts)
        self.partners = {relation: RemoteRows(comm, owners) for relation, owners in partners.items()}

    def ghost_gather(self, x: Tensor, num_rows: int) -> Tensor:
        return torch.cat([x, self.ghosts.fetch(x)])

    def ghost_reduce(self, x: Tensor, num_owned: int) -> Tensor:
        return self.ghosts.add_to_owners(x[:num_owned], x[num_owned:])

    def reverse_edges(self, x: Tensor, reverse: Tensor, relation: int) -> Tensor:
        return self.partners[relation].fetch(x)

    def all_gather(self, x: Tensor, num_total: int) -> Tensor:
        return torch.cat([torch.from_numpy(rows) for rows in self.comm.allgather(x.numpy())])

    def reduce_scatter(self, x: Tensor, num_owned: int) -> Tensor:
        counts = self.comm.allgather(num_owned)
        received = self.comm.alltoall([rows.numpy() for rows in x.split(counts)])
        return torch.from_numpy(np.sum(received, axis=0))

    def rank_layout(self, x: Tensor) -> Tensor:
        return torch.tensor([self.comm.rank, int(self.ring), *self.comm.allgather(x.shape[0])])

    def ring_shift(self, x: Tensor, num_rows: int) -> Tensor:
        rank, size = self.comm.rank, self.comm.size
        received = self.comm.sendrecv(x.numpy(), dest=(rank + 1) % size, source=(rank - 1) % size)
        return torch.from_numpy(received)
