"""A `Communicator` over mpi4py, for parallel runs from Python.

Used for one structure over several ranks (`uip.inference.domain`) and in tests; CPU tensors, not optimised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = Sequence[int] | NDArray[np.int64]
"""One number per rank."""

GATHERED_BYTES = 1 << 30
"""Largest gathered size on a rank; above it keys are passed around the ring. As in lammps_plugin/mpi_comm.cpp."""


class Messages:
    """Exchanges rows between the ranks of an mpi4py communicator, and counts the bytes and messages of this rank.

    One row is one MPI datatype and counts are in rows, so a message can hold more than 2^31 bytes.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.bytes_sent = self.num_sent = 0

    def exchange(self, rows: Tensor, send: Counts, receive: Counts) -> Tensor:
        """Rows received from all ranks, in rank order; of `rows` (sum(send), ...), `send[p]` rows go to rank p."""
        with _row_type(rows) as row:
            received = rows.new_empty((int(np.sum(receive)), *rows.shape[1:]))
            self.comm.Alltoallv(_of_ranks(rows, send, row), _of_ranks(received, receive, row))
            others = np.delete(np.asarray(send), self.comm.rank)
            self._count(int(others.sum()) * row.size, int((others > 0).sum()))
        return received

    def all_gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in rank order. Counted as one message to each other rank."""
        counts = self.comm.allgather(rows.shape[0])
        with _row_type(rows) as row:
            gathered = rows.new_empty((sum(counts), *rows.shape[1:]))
            self.comm.Allgatherv([rows.contiguous().numpy(), rows.shape[0], row], _of_ranks(gathered, counts, row))
            others = (self.comm.size - 1) * (rows.shape[0] > 0)
            self._count(others * rows.shape[0] * row.size, others)
        return gathered

    def _count(self, num_bytes: int, num_messages: int) -> None:
        self.bytes_sent += num_bytes
        self.num_sent += num_messages


@contextmanager
def _row_type(rows: Tensor) -> Iterator[Any]:
    """One row as an MPI datatype."""
    from mpi4py import MPI

    row = MPI.BYTE.Create_contiguous(rows[:0].element_size() * math.prod(rows.shape[1:])).Commit()
    try:
        yield row
    finally:
        row.Free()


def _of_ranks(rows: Tensor, counts: Counts, row: Any) -> list[Any]:
    """Buffer argument of mpi4py for rows that belong to several ranks."""
    starts = np.cumsum([0, *counts[:-1]])
    return [rows.contiguous().numpy(), (counts, starts), row]


class RemoteRows:
    """Rows that other ranks own; the ranks exchange the lists of requested rows once, at construction.

    Args:
        messages: used for the exchange.
        owners: (K, 2) owner rank and row of each of the K rows that this rank requests.
    """

    def __init__(self, messages: Messages, owners: np.ndarray) -> None:
        self.messages = messages
        owners = np.asarray(owners, dtype=np.int64).reshape(-1, 2)
        order = np.argsort(owners[:, 0], kind="stable")
        self.places = torch.from_numpy(order)
        self.receive = np.bincount(owners[:, 0], minlength=messages.comm.size)
        self.send = np.array(messages.comm.alltoall(self.receive.tolist()))
        self.rows = messages.exchange(torch.from_numpy(owners[order, 1]), self.receive, self.send)

    def fetch(self, x: Tensor) -> Tensor:
        """The requested rows, (K, C); `x`: rows of this rank."""
        received = self.messages.exchange(x.index_select(0, self.rows), self.send, self.receive)
        return torch.empty_like(received).index_copy_(0, self.places, received)

    def add_to_owners(self, total: Tensor, x: Tensor) -> Tensor:
        """Adjoint of `fetch`: `total`, rows of this rank, plus the rows `x`, (K, C), that other ranks hold of them."""
        received = self.messages.exchange(x.index_select(0, self.places), self.receive, self.send)
        return total.index_add(0, self.rows, received)


class MPICommunicator:
    """A `Communicator` over mpi4py; CPU tensors.

    Args:
        comm: an mpi4py communicator.
        ghosts: (R - N, 2) rank and row of the owner of each ghost.
        partners: for each relation, (E, 2) rank and row of the opposite direction of each edge.
        ring: attention passes keys around the ring instead of gathering them; None: above `GATHERED_BYTES`.
    """

    def __init__(
        self, comm: Any, ghosts: np.ndarray, partners: Mapping[int, np.ndarray], *, ring: bool | None = None
    ) -> None:
        self.comm, self.ring, self.messages = comm, ring, Messages(comm)
        self.ghosts = RemoteRows(self.messages, ghosts)
        self.partners = {relation: RemoteRows(self.messages, owners) for relation, owners in partners.items()}

    def ghost_gather(self, x: Tensor, num_rows: int) -> Tensor:
        return torch.cat([x, self.ghosts.fetch(x)])

    def ghost_reduce(self, x: Tensor, num_owned: int) -> Tensor:
        return self.ghosts.add_to_owners(x[:num_owned], x[num_owned:])

    def reverse_edges(self, x: Tensor, reverse: Tensor, relation: int) -> Tensor:
        return self.partners[relation].fetch(x)

    def all_gather(self, x: Tensor, num_total: int) -> Tensor:
        return self.messages.all_gather(x)

    def reduce_scatter(self, x: Tensor, num_owned: int) -> Tensor:
        size = self.comm.size
        received = self.messages.exchange(x, self.comm.allgather(num_owned), [num_owned] * size)
        return received.view(size, num_owned, *x.shape[1:]).sum(0)

    def rank_layout(self, x: Tensor) -> Tensor:
        counts = self.comm.allgather(x.shape[0])
        ring = self.ring
        if ring is None:
            # keys, values and the gradients of both are gathered
            ring = 4 * sum(counts) * x.shape[1] * x.element_size() > GATHERED_BYTES
        return torch.tensor([self.comm.rank, int(ring), *counts])

    def ring_shift(self, x: Tensor, num_rows: int) -> Tensor:
        rank, size = self.comm.rank, self.comm.size
        send, receive = [0] * size, [0] * size
        send[(rank + 1) % size], receive[(rank - 1) % size] = x.shape[0], num_rows
        return self.messages.exchange(x, send, receive)
