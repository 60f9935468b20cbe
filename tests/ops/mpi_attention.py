"""A check of `mpi_checks.py` on three ranks: attention over the atoms of all ranks is that of one, gathered and around
the ring.

Ranks own 0, 1 and 7 atoms. Two kinds break it, and it must fail: "without reduce" loses the gradients of keys that
other ranks own, "wrong order" gathers ranks in another order than gradients are sent back in.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from uip.ops.attention import Radial
from uip.parallel.collectives import EDGES, attend, use_communicator
from uip.parallel.mpi import MPICommunicator

COUNTS = (0, 1, 7)
CELL = torch.tensor([[[4.0, 0.5, 0.0], [2.9, 3.0, 0.4], [0.3, -1.0, 5.0]]], dtype=torch.float64)


class WithoutReduce(MPICommunicator):
    def reduce_scatter(self, x: Tensor, num_owned: int) -> Tensor:
        start = sum(COUNTS[: self.comm.rank])
        return x[start : start + num_owned].clone()


class WrongOrder(MPICommunicator):
    def all_gather(self, x: Tensor, num_total: int) -> Tensor:
        return super().all_gather(x, num_total).flip(0)


def results(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor | None, seed: Tensor, sink: Tensor | None
) -> list[Tensor]:
    """Output and gradients."""
    variables = [x.clone().requires_grad_() for x in (q, k, v)]
    radial = None
    if positions is not None:
        places = positions.clone().requires_grad_()
        strain = torch.zeros(len(q), 3, 3, dtype=torch.float64, requires_grad=True)
        weight = torch.linspace(-1, 1, 64, dtype=torch.float64).view(2, 32)
        radial = Radial(weight, places, strain, CELL, torch.tensor([[True, True, False]]))
        variables += [places, strain]
    out = attend(*variables[:3], torch.zeros(len(q), dtype=torch.int64), 2, radial, sink)
    return [out.detach(), *torch.autograd.grad(out, variables, seed)]


KINDS = {"": MPICommunicator, "without reduce": WithoutReduce, "wrong order": WrongOrder}


def check_attention(comm: MPI.Comm, kind: str = "") -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, seed = torch.randn(4, sum(COUNTS), 6, dtype=torch.float64, generator=generator)
    positions = 5 * torch.randn(sum(COUNTS), 3, dtype=torch.float64, generator=generator)
    start = sum(COUNTS[: comm.rank])
    mine = slice(start, start + COUNTS[comm.rank])
    sink = torch.tensor([0.5, -1.0], dtype=torch.float64)
    for places, key in itertools.product((None, positions), (None, sink)):
        whole = results(q, k, v, places, seed, key)
        for ring in (False, True):
            communicator = KINDS[kind](comm, np.empty((0, 2)), {EDGES: np.empty((0, 2))}, ring=ring)
            with use_communicator(communicator):
                part = results(q[mine], k[mine], v[mine], None if places is None else places[mine], seed[mine], key)
            for a, b in zip(part, whole, strict=True):
                difference = float((a - b[mine]).abs().max()) if len(a) else 0.0
                worst = comm.allreduce(difference, op=MPI.MAX)
                case = f"ring: {ring}, radial: {places is not None}, sink: {key is not None}"
                assert worst < 1e-11, f"attention differs by {worst} ({case})"
