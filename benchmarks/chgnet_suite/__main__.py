"""CHGNet on a processor, all questions in one run: uip against chgnet 0.4.2 and its own other ways.

    make bench                                    (needs chgnet 0.4.2 with its dependencies; `make bench-env`)
    python benchmarks/chgnet_suite [--pt2 FILE] [--before OLD.pt2 --before-path DIR] [--peer PYTHON] [--quick]

1. step: a step through ASE (neighbours, energy, forces, stress, magnetic moments of moved atoms), wall and processor
   time, on one and two threads.
2. memory: peak of a process.
3. kernels: rates of the fused ops, relative to torch's product of matrices.
4. lammps: time of a step on ranks and threads, share outside of the program, bytes, peak memory.

Each way runs in a process of its own; the processes take turns. Results go to one JSON file, from which document.py
makes docs/benchmarks.md and figure.py its figure. --before: an older program, run by the uip and libuip in DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lammps_runs
from document import RESULTS, summary
from machine import load_average, machine, versions
from turns import Effort, Way, Worker, measure

QUESTIONS = ("step", "memory", "kernels", "lammps")
PEER, PLAIN, EAGER, BEFORE = "chgnet 0.4.2", "eager, plain", "eager", "before"
KERNELS = ("generic", "avx2", "avx512")


ONCE = Effort(0.0, (1, 1), 0.0)
STEPS = Effort(10.0, (3, 25), 0.1)
LARGE_STEPS = Effort(10.0, (2, 5), 0.0)
LAMMPS_RUNS = Effort(60.0, (3, 8), 0.0)


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Args:
        shared: structures of all ways; large: of the main way alone.
        memory, large_memory: the same for memory.
        kernels: structures, and rounds of each.
        lammps: structure and steps of a run; layouts: ranks and threads; lammps_memory: structure, "" for none.
    """

    shared: tuple[str, ...] = ("Si 8", "Si 64", "Si 216", "Si 1000", "MgO 64", "MgO 216")
    large: tuple[str, ...] = ("Si 8000", "Si 21952")
    efforts: tuple[Effort, Effort, Effort] = (STEPS, LARGE_STEPS, LAMMPS_RUNS)
    memory: tuple[str, ...] = ("Si 216", "Si 1000", "MgO 216")
    large_memory: tuple[str, ...] = ("Si 8000", "Si 21952")
    kernels: tuple[tuple[str, ...], int] = (("Si 1000", "MgO 216"), 8)
    lammps: tuple[str, int] = ("Si 1000", 10)
    layouts: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (1, 2))
    lammps_memory: str = "Si 21952"


FULL = Plan()
QUICK = Plan(
    shared=("Si 8",),
    large=("MgO 64",),
    efforts=(ONCE, ONCE, ONCE),
    memory=(),
    large_memory=("Si 8",),
    kernels=(("MgO 8",), 1),
    lammps=("Si 64", 2),
    layouts=((1, 1), (2, 1)),
    lammps_memory="",
)


def export(path: Path) -> Path:
    """The published model as a file for engines, portable (no --native)."""
    print(f"exporting {path.name}", flush=True)
    command = [Path(sys.executable).parent / "uip", "export", "chgnet-0.3.0", "-o", path, "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def chosen_ways(options: argparse.Namespace, folder: Path) -> list[Way]:
    """All ways of this run; the last exported form is the main one."""
    ways = [] if options.peer == "none" else [Way(PEER, ("chgnet",), python=options.peer)]
    ways += [] if options.quick else [Way(PLAIN, ("plain",))]
    ways += [Way(EAGER, ("eager",)), Way(".pt", ("program", str(options.pt or export(folder / "chgnet.pt"))))]
    if not options.quick:
        ways += [Way(".pt2", ("program", str(options.pt2 or export(folder / "chgnet.pt2"))))]
    if options.before:
        ways += [Way(BEFORE, ("program", str(options.before), "--path", str(options.before_path)))]
    return ways


class Suite:
    """One run. Workers stay alive as long as `stack` is open; `results` grows.

    Args:
        folder: for files of runs.
        before: an older program and the repository of its uip.
    """

    def __init__(
        self,
        plan: Plan,
        ways: list[Way],
        stack: contextlib.ExitStack,
        *,
        folder: Path,
        before: tuple[Path, Path] | None,
    ) -> None:
        self.plan, self.stack, self.folder, self.before = plan, stack, folder, before
        self.workers = {way.name: stack.enter_context(Worker(way)) for way in ways}
        for worker in self.workers.values():
            worker.wait()
        self.main = ".pt2" if ".pt2" in self.workers else ".pt"
        self.threads = (1, 2) if len(os.sched_getaffinity(0)) > 1 else (1,)
        self.best: str = self.workers[self.main].ask("about")["kernels"]
        self.results: dict[str, Any] = {"main": self.main, "kernels": [self.best]}

    def add_kernels(self) -> None:
        """The main way with kernels for simpler processors, where this one has better."""
        for name in KERNELS[: KERNELS.index(self.best)]:
            main = self.workers[self.main].way
            worker = self.stack.enter_context(Worker(Way(f"{main.name}, {name}", main.arguments, name, main.python)))
            worker.wait()
            self.workers[worker.way.name] = worker
            self.results["kernels"].append(name)

    def about(self) -> None:
        self.results["workers"] = {name: worker.ask("about") for name, worker in self.workers.items()}

    def step(self) -> None:
        one = [(worker, 1) for worker in self.workers.values()]
        more = [(self.workers[name], 2) for name in (PEER, self.main, BEFORE) if name in self.workers]
        participants = [*one, *(more if 2 in self.threads else [])]
        rows: list[dict[str, Any]] = []
        for name in self.plan.shared:
            rows += self._said(measure(name, participants, self.plan.efforts[0]))
        for name in self.plan.large:
            alone = [(self.workers[self.main], threads) for threads in self.threads]
            rows += self._said(measure(name, alone, self.plan.efforts[1]))
        self.results["step"] = rows

    def memory(self) -> None:
        """Each in a new process."""
        rows = []
        shared = [name for name in (PEER, PLAIN, EAGER, self.main, BEFORE) if name in self.workers]
        for name in (*self.plan.memory, *self.plan.large_memory):
            for way in shared if name in self.plan.memory else [self.main]:
                with Worker(self.workers[way].way) as worker:
                    worker.wait()
                    rows.append({"structure": name, "way": way, **worker.ask("memory", structure=name)})
                print(f"  memory {name:9} {way:14} {rows[-1]['step_mb']:8.0f} MB", flush=True)
        self.results["memory"] = rows

    def kernels(self) -> None:
        rows: list[dict[str, Any]] = []
        names, rounds = self.plan.kernels
        for name in names:
            for worker in self.workers.values():
                if worker.way.name.startswith(self.main):
                    found = worker.ask("kernels", structure=name, rounds=rounds)
                    rows += [{"structure": name, "way": worker.way.name, **row} for row in found]
        self.results["fused_ops"] = rows

    def lammps(self) -> None:
        cases = self._lammps_cases()
        name, steps = self.plan.lammps
        self.results["lammps"] = self._said(lammps_runs.measure(self.folder, cases, name, steps, self.plan.efforts[2]))
        large = [self.plan.lammps_memory] if self.plan.lammps_memory else []
        self.results["lammps_memory"] = [lammps_runs.peak_memory(self.folder, cases[0], name) for name in large]

    def _lammps_cases(self) -> list[lammps_runs.Case]:
        """The first is that of one rank and one thread."""
        from uip.plugins import lammps_plugin_folder

        program, plugin = Path(self.workers[self.main].way.arguments[1]), lammps_plugin_folder()
        layouts = [counts for counts in self.plan.layouts if max(counts) in self.threads]
        cases = [lammps_runs.Case(self.main, program, plugin, *counts) for counts in layouts]
        if self.best == "avx512":
            cases += [lammps_runs.Case(f"{self.main}, avx2", program, plugin, kernels="avx2")]
        if self.before:
            old, path = self.before
            cases += [lammps_runs.Case(BEFORE, old, str(path / "uip" / "lib" / "lammps"))]
        return cases

    @staticmethod
    def _said(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            count = f"{row.get('ranks', 1)} x {row['threads']}"
            times = f"wall {min(row['wall_ms']):9.1f}  processor {min(row['cpu_ms']):9.1f} ms"
            print(f"  {row['structure']:9} {row['way']:16} {count}  {times}  {len(row['wall_ms'])} rounds", flush=True)
        return rows


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All questions that were asked."""
    start = time.perf_counter()
    head: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": command(sys.argv[1:]),
        "machine": machine(),
    }
    head["load_average"] = [load_average()]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plan, before = QUICK if options.quick else FULL, (options.before, options.before_path)
        ways = chosen_ways(options, folder)
        suite = Suite(plan, ways, stack, folder=folder, before=before if options.before else None)
        if not options.quick:
            suite.add_kernels()
        for question in QUESTIONS:
            if question in options.questions:
                print(f"{question}: {time.perf_counter() - start:.0f} s", flush=True)
                getattr(suite, question)()
                head["load_average"].append(load_average())
        suite.about()
    return {**head, "versions": versions(), "seconds": round(time.perf_counter() - start), **suite.results}


def command(arguments: list[str]) -> str:
    """How this run was started; of files only the names, since folders say nothing on other machines."""
    return shlex.join(["python", "benchmarks/chgnet_suite", *(Path(word).name for word in arguments)])


def as_text(results: dict[str, Any]) -> str:
    """JSON with one line for each row, numbers of four digits."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(each) for name, each in value.items()}
        if isinstance(value, list):
            return [short(each) for each in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    def lines(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"
        return json.dumps(value)

    return (
        "{\n" + ",\n".join(f" {json.dumps(name)}: {lines(value)}" for name, value in short(results).items()) + "\n}\n"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", default=sys.executable, help="a Python that has chgnet 0.4.2 and what it needs; or none"
    )
    parser.add_argument("--pt", type=Path, help="exported here if not given")
    parser.add_argument("--pt2", type=Path, help="exported here if not given")
    parser.add_argument("--before", type=Path, help="a .pt2 of an older uip")
    parser.add_argument("--before-path", type=Path, help="the repository of the older uip, built")
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=QUESTIONS)
    parser.add_argument("--quick", action="store_true", help="tiny and without .pt2: that everything runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if (options.before is None) != (options.before_path is None):
        parser.error("--before and --before-path must be given together, got one of them")
    if options.before_path and not (options.before_path / "uip" / "lib" / "libuip.so").is_file():
        parser.error(f"--before-path must hold uip/lib/libuip.so, but {options.before_path} does not; build it there")
    return options


def main() -> None:
    options = parsed()
    results = run(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = as_text(results)
    options.output.write_text(text)
    print(f"{summary(json.loads(text))}\nwritten: {options.output}; docs: make bench-docs")


if __name__ == "__main__":
    main()
