"""Batches made on a thread of their own while the model works on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def prefetch(makers: Iterable[Callable[[], Item]]) -> Iterator[Item]:
    """What `makers` return, in their order, each begun when its predecessor is handed out.

    An error in a maker is raised where its item would have been.
    """
    # the number of threads is a setting of each thread
    with ThreadPoolExecutor(1, "prefetch", torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        waiting: Future[Item] | None = None
        for maker in makers:
            begun = pool.submit(maker)
            if waiting is not None:
                yield waiting.result()
            waiting = begun
        if waiting is not None:
            yield waiting.result()
