"""Error output of commands: one line, or a traceback with `uip --debug`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

errors = Console(stderr=True)

USER_ERRORS = (ValueError, OSError, FloatingPointError, RuntimeError)
"""Raised for invalid input and missing files; other exceptions are bugs."""

_debug = False


def show_tracebacks(debug: bool) -> None:
    """Whether `user_errors` lets exceptions through, with their traceback."""
    global _debug
    _debug = debug


def debug_is_on() -> bool:
    """Whether `uip --debug` was given."""
    return _debug


@contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake ends the command with its message and exit code 1, without a traceback."""
    try:
        yield
    except USER_ERRORS as error:
        if _debug:
            raise
        errors.print(f"uip: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """SIGTERM becomes SystemExit, so that temporary folders are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def all_ranks() -> Iterator[Any]:
    """The communicator under mpiexec, else None. What fails on one rank ends them all."""
    from uip.inference.domain import world

    ranks = world()
    try:
        yield ranks
    except Exception as error:
        if ranks is None:
            raise
        try:
            errors.print(f"uip, rank {ranks.rank}: {error}", style="bold red", markup=False, highlight=False)
            sys.stderr.flush()
            time.sleep(1.0)  # mpiexec drops at the end what it has not passed on yet
        finally:  # also when there is no memory to say it
            ranks.Abort(1)
