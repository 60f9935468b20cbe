"""SIGINT and SIGTERM during a run: the step in progress ends, a checkpoint is written, the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StoppedError(RuntimeError):
    """The end of a run that a signal asked for; `exit_code` as a shell gives it to a process that a signal ended."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal.Signals[name or "SIGTERM"]


class StopRequest:
    """The signal that asked for the end of the run."""

    name: str = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within, a first signal is noted, a second one ends the process as usual. In other threads nothing is changed."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in HANDLED}

    def note(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in HANDLED:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
