"""`python -m uip.train run.toml`: the command line of a training run; the run itself is `uip.train.loop`.

python -m uip.train run.toml                                   # one process
python -m uip.train run.toml --resume                          # continue from the last checkpoint
torchrun --nproc-per-node 4 -m uip.train run.toml              # four processes, each computes a part of every step
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from uip.train.config import read_config
from uip.train.loop import Watch, train


def main(arguments: list[str]) -> int:
    """The command line."""
    resume = "--resume" in arguments
    paths = [argument for argument in arguments if argument != "--resume"]
    if len(paths) != 1 or paths[0].startswith("-"):
        sys.stderr.write("usage: python -m uip.train RUN.toml [--resume]\n")
        return 2
    try:
        config = read_config(paths[0])
        with progress_bar() as watch:
            best = train(config, resume=resume, say=print_once, watch=watch)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        sys.stderr.write(f"uip.train: {error}\n")
        return 1
    print_once(f"best potential: {best}")
    return 0


@contextmanager
def progress_bar() -> Iterator[Watch]:
    """A bar with steps and structures per second on the first rank's terminal; nothing is drawn into a file."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.fields[rate]:.3g} structures/s,"))
    shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task, began, seen = bar.add_task("", rate=0.0), time.monotonic(), 0

        def watch(done: int, total: int, structures: int) -> None:
            nonlocal seen
            seen += structures
            bar.update(task, completed=done, total=total, rate=seen / (time.monotonic() - began))

        yield watch


def print_once(text: str) -> None:
    """Text for the reader, from the first rank alone."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
