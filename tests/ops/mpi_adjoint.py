"""A check of `mpi_checks.py` on three ranks: every primitive is the adjoint of its partner, <A x, y> = <x, A' y>.

Ranks own 0, 1 and many rows. "without reverse" loses the ghosts' gradients, "without forward" the ghosts' values: both
must fail, on all ranks at once.
"""

from __future__ import annotations

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from uip.parallel.collectives import EDGES, Communicator, all_gather, ghost_gather, reverse_edges, use_communicator
from uip.parallel.mpi import MPICommunicator

COUNTS = (0, 1, 7)
EDGE_COUNTS = (0, 2, 8)
OPPOSITE = np.array([9, 4, 3, 2, 1, 5, 8, 7, 6, 0])  # an involution over the edges of all ranks


class WithoutReverse(MPICommunicator):
    def ghost_reduce(self, x: Tensor, num_owned: int) -> Tensor:
        return x[:num_owned].clone()


class WithoutForward(MPICommunicator):
    def ghost_gather(self, x: Tensor, num_rows: int) -> Tensor:
        return torch.cat([x, x.new_zeros(num_rows - x.shape[0], *x.shape[1:])])


def rows_of(counts: tuple[int, ...]) -> np.ndarray:
    return np.array([(rank, row) for rank, count in enumerate(counts) for row in range(count)])


def make_communicator(comm: MPI.Comm, kind: type[MPICommunicator]) -> tuple[Communicator, int]:
    """Every rank has all rows of the others as ghosts; also how many those are."""
    atoms, edges = rows_of(COUNTS), rows_of(EDGE_COUNTS)
    ghosts = atoms[atoms[:, 0] != comm.rank]
    return kind(comm, ghosts, {EDGES: edges[OPPOSITE][edges[:, 0] == comm.rank]}), len(ghosts)


def check(comm: MPI.Comm, num_ghosts: int) -> None:
    generator = torch.Generator().manual_seed(comm.rank)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    num_atoms, num_edges = COUNTS[comm.rank], EDGE_COUNTS[comm.rank]
    reverse = torch.zeros(num_edges, dtype=torch.int64)
    cases = {
        "ghost_gather": (num_atoms, lambda x: ghost_gather(x, torch.empty(num_atoms + num_ghosts))),
        "reverse_edges": (num_edges, lambda x: reverse_edges(x, reverse, EDGES)),
        "all_gather": (num_atoms, lambda x: all_gather(x, torch.empty(sum(COUNTS)))),
    }
    for name, (count, apply) in cases.items():
        x = random(count, 3).requires_grad_()
        result = apply(x)
        y = random(*result.shape).requires_grad_()
        # twice: the gradient of the gradient with respect to y is the op again
        (back,) = torch.autograd.grad(result, x, y, create_graph=True)
        z = random(count, 3)
        (again,) = torch.autograd.grad(back, y, z)
        assert on_all(comm, torch.equal(again, apply(z))), f"{name}: the adjoint of the adjoint is another op"
        left = comm.allreduce((result * y).sum().item())
        right = comm.allreduce((x * back).sum().item())
        assert abs(left) > 0.1, f"{name}: nothing was compared"
        assert abs(left - right) < 1e-12 * abs(left) * 100, f"{name}: <A x, y> = {left}, <x, A' y> = {right}"
        if name == "reverse_edges":
            assert on_all(comm, torch.equal(apply(result), x)), "twice reversed is not the start"


def on_all(comm: MPI.Comm, true: bool) -> bool:
    return comm.allreduce(true, op=MPI.LAND)


KINDS = {"": MPICommunicator, "without reverse": WithoutReverse, "without forward": WithoutForward}


def check_adjoint(comm: MPI.Comm, kind: str = "") -> None:
    communicator, num_ghosts = make_communicator(comm, KINDS[kind])
    with use_communicator(communicator):
        check(comm, num_ghosts)
