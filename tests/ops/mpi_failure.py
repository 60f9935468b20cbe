"""Run under mpiexec -n 2: `mpi_failure.py HOW WAY ...` is `uip ...` whose second rank fails inside attention.

HOW: "kill" (SIGKILL), "raise", "memory" (none is left to the process). WAY: "gather", "ring". It fails in its third
all_gather or ring_shift.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable

import torch
from mpi4py import MPI
from torch import Tensor

from uip.cli.app import app
from uip.parallel import mpi
from uip.parallel.mpi import MPICommunicator


def fail(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise RuntimeError("a deliberate failure")
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + (64 << 20)  # too little for the tensor, enough for the message
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.empty(1 << 28)


def failing(exchange: Callable[..., Tensor], how: str) -> Callable[..., Tensor]:
    """`exchange`, but its third call fails on the second rank."""
    calls = 0

    def carry(self: MPICommunicator, x: Tensor, number: int) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 and self.comm.rank == 1:
            fail(how)
        return exchange(self, x, number)

    return carry


def main() -> None:
    how, way, *arguments = sys.argv[1:]
    mpi.GATHERED_BYTES = 0 if way == "ring" else 1 << 60
    name = "ring_shift" if way == "ring" else "all_gather"
    setattr(MPICommunicator, name, failing(getattr(MPICommunicator, name), how))
    app(arguments)
    MPI.COMM_WORLD.Barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
