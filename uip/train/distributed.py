"""Data-parallel training: each process has the whole model and computes a part of every step.

torchrun starts several processes; without it there is one, and the same functions work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among `size`. All ranks must call each function."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank on this machine; selects the GPU."""

    @staticmethod
    def join(device: str) -> Ranks:
        """The ranks that torchrun started, or one rank. Backend: nccl between GPUs, otherwise gloo."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Ranks()
        if not dist.is_initialized():
            # counts and errors are summed on the CPU, gradients on the device of the model
            dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, on every rank."""
        if self.size == 1:
            return x
        total = x.clone()
        dist.all_reduce(total)
        return total

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
        return [count > 0 for count in self.sum(torch.tensor(flags, dtype=torch.float64)).tolist()]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def check_same(self, what: str, text: str) -> None:
        """Raises RuntimeError, on every rank, if ranks hold different `text`."""
        if self.size == 1:
            return
        texts: list[str | None] = [None] * self.size
        dist.all_gather_object(texts, text)
        others = [rank for rank, other in enumerate(texts) if other != texts[0]]
        if others:
            raise RuntimeError(
                f"all ranks must have the same {what}, but ranks {others} differ from rank 0; "
                "start them with the same files and the same version of uip"
            )

    def leave(self) -> None:
        """Destroy the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because another rank ended or cannot be reached."""
    kinds = (dist.DistBackendError, dist.DistNetworkError)  # gloo raises RuntimeError, with its source file
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
