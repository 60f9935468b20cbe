"""Prepares the next batch on a second thread while the model computes the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def prefetch(makers: Iterable[Callable[[], Item]]) -> Iterator[Item]:
    """The results of `makers` in order; each is started before the previous one is yielded.

    An error in a maker is raised in place of its item.
    """
    # torch's number of threads is set per thread
    with ThreadPoolExecutor(1, "prefetch", torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        waiting: Future[Item] | None = None
        for maker in makers:
            begun = pool.submit(maker)
            if waiting is not None:
                yield waiting.result()
            waiting = begun
        if waiting is not None:
            yield waiting.result()
