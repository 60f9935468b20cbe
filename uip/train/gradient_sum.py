"""The sum of gradients over ranks, in buckets, while the backward pass still runs.

A bucket is summed as soon as the last backward pass of a step has all of its gradients, in the same order on all ranks:
a rank without structures in a step has zeros. Gradients come in the reverse order of the parameters, so that is the
order of the buckets (S. Li et al., PyTorch Distributed, VLDB 13, 3005 (2020)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from uip.train.distributed import Ranks

BUCKET = 1 << 20
"""Smallest number of gradients that are sent together, but for the last bucket."""


@dataclass
class Bucket:
    """Parameters whose gradients are sent together."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    missing: int = 0
    """Number of gradients that the backward pass has not reached yet."""
    flat: Tensor | None = None
    """Gradients, once they are sent."""
    work: dist.Work | None = None


class GradientSum:
    """Replaces the gradients of `parameters` by their sums over `ranks`. All ranks must take the same steps:

    for number, sample in enumerate(samples):
        with gradients.overlap(last=number == len(samples) - 1):
            loss(sample).backward()
    gradients.finish()
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks, *, bucket: int = BUCKET) -> None:
        self.parameters, self.ranks = list(parameters), ranks
        self.buckets = _buckets(self.parameters, bucket)
        self.next = 0
        """Number of the next bucket to send."""
        self.active = False
        if ranks.size > 1:
            for one in self.buckets:
                for parameter in one.parameters:
                    parameter.register_post_accumulate_grad_hook(lambda _, bucket=one: self._arrived(bucket))

    @contextmanager
    def overlap(self, *, last: bool) -> Iterator[None]:
        """Within the context of the last backward pass of a step, complete buckets are sent."""
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)
        self.active = last
        try:
            yield
        finally:
            self.active = False

    def finish(self) -> None:
        """Send the other buckets, with zeros for missing gradients, and wait for all."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.ranks.size == 1:
            return
        while self.next < len(self.buckets):
            self._send()
        for bucket in self.buckets:
            assert bucket.work is not None
            assert bucket.flat is not None
            bucket.work.wait()
            parts = bucket.flat.split([parameter.numel() for parameter in bucket.parameters])
            for parameter, part in zip(bucket.parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)
            bucket.work = bucket.flat = None
        self.next = 0

    def _arrived(self, bucket: Bucket) -> None:
        if not self.active:
            return
        bucket.missing -= 1
        while self.next < len(self.buckets) and self.buckets[self.next].missing == 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[self.next]
        bucket.flat = torch.cat([p.grad.flatten() for p in bucket.parameters if p.grad is not None])
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)
        self.next += 1


def _buckets(parameters: Sequence[nn.Parameter], size: int) -> list[Bucket]:
    """Parameters in reverse order, at least `size` numbers in each bucket but the last."""
    buckets: list[Bucket] = []
    filled = size
    for parameter in reversed(parameters):
        if filled >= size:
            buckets.append(Bucket())
            filled = 0
        buckets[-1].parameters.append(parameter)
        filled += parameter.numel()
    return buckets
