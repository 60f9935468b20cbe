"""Runs a function on many items in several processes, which end with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PR_SET_PDEATHSIG = 1


def run_all(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Items with their results, in the order in which they are ready; `workers` = 1: in this process.

    An error ends the other processes at once.

    Raises:
        RuntimeError: a process was killed.
    """
    if workers == 1 or not items:
        yield from ((item, function(item)) for item in items)
        return
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_end_with_parent) as pool:
        try:
            futures = {pool.submit(function, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise RuntimeError(
                "a process must not be killed before its work is done, but one was, perhaps for lack of memory; start "
                "again with fewer processes: what is finished is kept"
            ) from error


def _end_with_parent() -> None:
    """Without this, processes of a parent that was killed wait for work for ever, with its locks."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
