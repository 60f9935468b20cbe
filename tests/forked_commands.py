"""Commands of `uip` in processes of their own that have imported torch and `uip` already, which takes seconds: forks of
a server that has only done that."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import sys
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["forked_commands", "uip.cli.app", "uip.train.__main__", "uip.program.writer"])

COMMANDS = ("uip ", "python -m uip.train ")
"""How they begin. `mpiexec`, `torchrun` and commands of other programs start processes themselves."""


def run_forked(line: str, folder: Path) -> tuple[int, str]:
    """Run a command in `folder`; returns its exit code and what it printed."""
    output = folder / "command.output"
    process = SERVER.Process(target=call, args=(shlex.split(line, comments=True), folder, output))
    process.start()
    process.join()
    text = output.read_text(errors="replace")
    output.unlink()
    assert process.exitcode is not None
    return process.exitcode, text


def call(words: list[str], folder: Path, output: Path) -> None:
    """In the new process: become the command."""
    os.chdir(folder)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if words[0] == "uip":
        from uip.cli.app import app

        sys.argv = words
        app()
    from uip.train.__main__ import main

    sys.exit(main(words[words.index("uip.train") + 1 :]))
