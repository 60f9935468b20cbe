"""Worker processes that take turns: every round asks each of them once, so that all see the same machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from structures import num_atoms

SCRIPT = Path(__file__).with_name("worker.py")
PAUSE = 0.01
"""s between turns: threads of the last worker spin for about a millisecond before they sleep."""


@dataclass(frozen=True)
class Way:
    """A way to evaluate CHGNet.

    Args:
        name: in tables.
        arguments: of worker.py.
        kernels: limit of libuip's kernels, "" for none.
    """

    name: str
    arguments: tuple[str, ...]
    kernels: str = ""
    python: str = sys.executable


def environment(kernels: str = "") -> dict[str, str]:
    """Of a measured process; workers set their threads themselves."""
    kept = {name: value for name, value in os.environ.items() if name != "UIP_CPU_KERNELS"}
    return {**kept, "OMP_NUM_THREADS": "1", **({"UIP_CPU_KERNELS": kernels} if kernels else {})}


class Worker:
    """A process that evaluates one way; `ask` it."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [way.python, str(SCRIPT), *way.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment(way.kernels),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def wait(self) -> None:
        """Until it has loaded its model."""
        self._answer()

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer of worker.py's `Bench.do(**arguments)`.

        Raises:
            RuntimeError: the worker has ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        raise RuntimeError(
            f"the worker of {self.way.name!r} must answer, but ended with {self.process.returncode}; "
            f"its last words:\n{self.errors.read()[-2000:]}"
        )


@dataclass(frozen=True)
class Effort:
    """How long a question is measured.

    Args:
        seconds: of one structure; rounds go on until they are over.
        rounds: fewest and most rounds.
        turn: seconds of a turn; short steps are repeated.
    """

    seconds: float
    rounds: tuple[int, int]
    turn: float


@dataclass
class Turns:
    """Times of one participant, one of each round."""

    worker: Worker
    threads: int
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def take(self, structure: str, seconds: float) -> dict[str, float]:
        time.sleep(PAUSE)
        answer: dict[str, float] = self.worker.ask("steps", structure=structure, threads=self.threads, seconds=seconds)
        return answer


def measure(structure: str, participants: Iterable[tuple[Worker, int]], effort: Effort) -> list[dict[str, Any]]:
    """Rows of one structure: every participant (worker, threads) once a round, every other round in reverse order.

    The first round is warm-up and left out.
    """
    all_turns = [Turns(worker, threads) for worker, threads in participants]
    fewest, most = effort.rounds
    for turns in all_turns:
        turns.take(structure, 0.0)
    start, rounds = time.perf_counter(), 0
    while rounds < fewest or (rounds < most and time.perf_counter() - start < effort.seconds):
        for turns in all_turns[:: 1 if rounds % 2 == 0 else -1]:
            answer = turns.take(structure, effort.turn)
            turns.wall_ms.append(answer["wall_ms"])
            turns.cpu_ms.append(answer["cpu_ms"])
        rounds += 1
    return [row(structure, turns) for turns in all_turns]


def row(structure: str, turns: Turns) -> dict[str, Any]:
    return {
        "structure": structure,
        "atoms": num_atoms(structure),
        "way": turns.worker.way.name,
        "threads": turns.threads,
        "wall_ms": turns.wall_ms,
        "cpu_ms": turns.cpu_ms,
    }
