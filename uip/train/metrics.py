"""The log of a run: log.jsonl with one JSON object per line, and learning curves in curves.png.

Lines have `step`, `epoch` and `kind`: "train" (losses and errors of one step) or "validation". A resumed run
removes the lines that were written after the checkpoint, so the log equals that of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uip.train.curves import Curves
from uip.train.trackers import Tracker

Line = dict[str, Any]


def read_log(path: Path) -> list[Line]:
    """All complete lines; a last line truncated by a crash is ignored."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Log:
    """Appends to log.jsonl in `folder`.

    Args:
        keep: number of lines to keep; later lines, written by an interrupted run, are removed.
        track: called with the step of the last line that is kept; returns where the numbers are written too.
    """

    def __init__(
        self, folder: Path, *, keep: int = 0, track: Callable[[int], Sequence[Tracker]] = lambda step: ()
    ) -> None:
        self.path = folder / "log.jsonl"
        kept = read_log(self.path)[:keep]
        self.trackers = track(kept[-1]["step"] if kept else 0)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        os.replace(temporary, self.path)
        self.file = self.path.open("a", buffering=1)
        self.curves = Curves()
        for line in kept:
            self.curves.add(line)
        self.drawn = time.monotonic()

    def write(self, line: Line) -> None:
        """One line."""
        self.file.write(f"{json.dumps(line)}\n")
        self.curves.add(line)
        for tracker in self.trackers:
            tracker.write(line)

    def draw(self, *, every: float = 60.0) -> None:
        """Update curves.png if it is older than `every` seconds; drawing takes longer than a short epoch."""
        if time.monotonic() - self.drawn >= every:
            self.curves.draw(self.path.with_name("curves.png"))
            self.drawn = time.monotonic()

    def close(self) -> None:
        """Close the file and update curves.png."""
        self.file.close()
        self.draw(every=0.0)
        for tracker in self.trackers:
            tracker.close()
