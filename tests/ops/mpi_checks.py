"""Run under mpiexec -n 4: `mpi_checks.py CHECK ...` runs checks one after the other, in one start of all processes.

CHECK is "name" or "name:argument", as "adjoint:without reverse" or "program:model.pt". For each, every rank that takes
part prints a line "CHECK | agrees", or "CHECK | message" of an assertion, which fails on all ranks at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mpi4py import MPI
from mpi_adjoint import check_adjoint
from mpi_attention import check_attention
from mpi_model import check_models
from mpi_program import check_program

CHECKS = {"adjoint": check_adjoint, "attention": check_attention, "models": check_models, "program": check_program}
RANKS = {"program": 4}
"""Others run on three."""


def run(check: str) -> None:
    name, *arguments = check.split(":", 1)
    world = MPI.COMM_WORLD
    comm = world.Split(0 if world.rank < RANKS.get(name, 3) else MPI.UNDEFINED, world.rank)
    if comm == MPI.COMM_NULL:
        return
    try:
        CHECKS[name](comm, *arguments)
        result = "agrees"
    except AssertionError as error:
        result = " ".join(str(error).split())
    sys.stdout.write(f"{check} | {result}\n")
    sys.stdout.flush()
    comm.Free()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for check in sys.argv[1:]:
        run(check)
