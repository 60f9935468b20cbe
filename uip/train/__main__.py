"""`python -m uip.train run.toml`: the command line of a training run; the run itself is `uip.train.loop`.

python -m uip.train run.toml                                   # one process; `uip train run.toml` is the same
python -m uip.train run.toml --resume                          # continue from the last checkpoint
python -m uip.train run.toml --seeds 4                         # four models for a committee, one after the other
torchrun --nproc-per-node 4 -m uip.train run.toml              # four processes, each computes a part of every step
srun -n 4 python -m uip.train run.toml                         # the same, in a SLURM job
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import uip
from uip.train.config import TrainConfig, read_config
from uip.train.distributed import is_lost_connection
from uip.train.loop import StepCallback, train
from uip.train.members import is_finished, members
from uip.train.signals import StoppedError
from uip.train.slurm import slurm_ranks
from uip.train.template import settings_text

USER_ERRORS = (ValueError, OSError, FloatingPointError, RuntimeError)
MISTAKES = (ValueError, OSError)
"""Of settings and files, if they end a run before its first step: their message is enough."""

LOST_CONNECTION = (
    "lost the connection to another rank, which ended first; see the message or error log of that rank (there is none "
    "if the system killed it, for example for memory). If there is a last.ckpt, --resume continues from it"
)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m uip.train",
        description="Train a potential. Several processes: torchrun --nproc-per-node 4 -m uip.train RUN.toml",
        epilog=f"All settings of RUN.toml with their defaults:\n\n{settings_text()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="RUN.toml", type=Path, help="the settings of the run")
    parser.add_argument("--resume", action="store_true", help="continue from the run's last checkpoint")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="replace a setting of RUN.toml, for example optim.learning_rate=1e-3; may be repeated",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="train N models with different seeds, for a committee")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return run(options.config, options.overrides, resume=options.resume, seeds=options.seeds, debug=options.debug)


def run(path: Path, overrides: list[str], *, resume: bool, seeds: int | None = None, debug: bool = False) -> int:
    """Train with the config in `path`, with settings replaced by `overrides`; returns the exit code.

    Args:
        seeds: this number of models for a committee; those that are finished are left as they are.
    """
    try:
        os.environ.update(slurm_ranks(os.environ))
        config = read_config(path, overrides)
        if seeds is None:
            return run_one(config, resume=resume, debug=debug)
        return run_members(members(config, seeds, resume=resume), resume=resume, debug=debug)
    except USER_ERRORS as error:
        if debug:
            raise
        sys.stderr.write(f"uip.train: {error}\n")
        return 1


def run_members(configs: list[TrainConfig], *, resume: bool, debug: bool) -> int:
    """Train the members of a committee that are not finished; returns the exit code of the first that fails, or 0."""
    for number, config in enumerate(configs):
        title = f"model {number + 1} of {len(configs)}, {config.run.folder}"
        if is_finished(config):
            print_once(f"{title}: finished")
            continue
        print_once(title)
        if code := run_one(config, resume=resume, debug=debug):
            return code
    return 0


def run_one(config: TrainConfig, *, resume: bool, debug: bool) -> int:
    """Train one model; returns the exit code.

    A run that fails appends the traceback to error.log in its folder (error_rank1.log, ... of other ranks).
    """
    began = False

    def begin(done: int, total: int, structures: int) -> None:
        nonlocal began
        began = True
        on_step(done, total, structures)

    try:
        with progress_bar() as on_step:
            best = train(config, resume=resume, report=print_once, on_step=begin)
    except StoppedError as stop:
        sys.stderr.write(f"uip.train: {stop}\n")
        return stop.exit_code
    except Exception as error:
        if is_lost_connection(error) and not debug:
            sys.stderr.write(f"uip.train: rank {os.environ.get('RANK', '0')} {LOST_CONNECTION}\n")
            return 1
        log = write_error_log(Path(config.run.folder)) if began or not isinstance(error, MISTAKES) else None
        if debug or not isinstance(error, USER_ERRORS):
            raise
        sys.stderr.write(f"uip.train: {error}\n")
        if log is not None:
            sys.stderr.write(f"uip.train: the traceback is in {log}\n")
        return 1
    print_once(f"best potential: {best}")
    return 0


def write_error_log(folder: Path) -> Path | None:
    """Write the exception that is being handled, with versions; None if the run has no folder or it is not writable."""
    if not folder.is_dir():
        return None
    rank = os.environ.get("RANK", "0")
    path = folder / ("error.log" if rank == "0" else f"error_rank{rank}.log")
    header = (
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {' '.join(sys.argv)}\n"
        f"uip {uip.__version__}, torch {torch.__version__}, Python {platform.python_version()}, rank {rank}\n\n"
    )
    with suppress(OSError):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{header}{traceback.format_exc()}\n")
        return path
    return None


@contextmanager
def progress_bar() -> Iterator[StepCallback]:
    """A bar with steps and structures per second on the terminal of rank 0; hidden if stderr is not a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.fields[rate]:.3g} structures/s,"))
    shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task, began, seen = bar.add_task("", rate=0.0), time.monotonic(), 0

        def update(done: int, total: int, structures: int) -> None:
            nonlocal seen
            seen += structures
            bar.update(task, completed=done, total=total, rate=seen / (time.monotonic() - began))

        yield update


def print_once(text: str) -> None:
    """Print text for the user, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
