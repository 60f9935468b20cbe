"""Prepares the next batches while the model computes the current one: on a thread, or in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

Item = TypeVar("Item")

AHEAD = 4
"""Items that each process has ready."""
ERRORS = (ValueError, OSError)
"""Raised for damaged data; other exceptions are bugs, and get the traceback of the process."""


def prefetch(makers: Iterable[Callable[[], Item]], workers: int = 0) -> Iterator[Item]:
    """The results of `makers` in order.

    An error in a maker is raised in place of its item.

    Args:
        workers: number of processes, forked from this one, that prepare `AHEAD` items each; 0: a thread prepares one.
    """
    return _in_processes(list(makers), workers) if workers else _on_a_thread(makers)


def _on_a_thread(makers: Iterable[Callable[[], Item]]) -> Iterator[Item]:
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


def _in_processes(makers: Sequence[Callable[[], Item]], workers: int) -> Iterator[Item]:
    loader: DataLoader[Any] = DataLoader(
        _Made(makers),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
        collate_fn=_unchanged,
    )
    for item in loader:
        if isinstance(item, ERRORS):
            raise item
        yield item


class _Made(Generic[Item]):
    """Results of makers by number, in the form that `DataLoader` reads; an error in the data is a result."""

    def __init__(self, makers: Sequence[Callable[[], Item]]) -> None:
        self.makers = makers

    def __len__(self) -> int:
        return len(self.makers)

    def __getitem__(self, number: int) -> Item | ValueError | OSError:
        try:
            return self.makers[number]()
        except ERRORS as error:
            return error


def _unchanged(item: Item) -> Item:
    return item
