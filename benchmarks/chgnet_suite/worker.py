"""A process that evaluates CHGNet in one way and answers requests, one line of JSON each (turns.py sends them).

    python worker.py chgnet                        chgnet 0.4.2, the published code, through its ASE calculator
    python worker.py plain | eager                 uip's modules; with fused messages
    python worker.py program FILE [--path DIR]     an exported file; with the uip of another folder

Everything that is measured happens here: the processes take turns, so that their numbers share the machine's state.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator
from structures import structure

MODEL = "chgnet-0.3.0"


def peer() -> Calculator:
    try:
        from chgnet.model.dynamics import CHGNetCalculator
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise SystemExit(
            f"chgnet 0.4.2 must be installed with its dependencies, but {error}; "
            "run `make bench-env`, or choose another Python with --peer, or --peer none"
        ) from error
    return CHGNetCalculator(CHGNet.load(use_device="cpu", verbose=False), use_device="cpu")


def ours(model: str, path: Path | None) -> Calculator:
    """Of the installed uip, or of the one in `path`."""
    if path is not None:
        sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]  # no editable installs
        sys.path.insert(0, str(path.resolve()))
    import uip

    assert path is None or Path(uip.__file__).is_relative_to(path.resolve()), uip.__file__
    return uip.Calculator(model)


def form(way: str) -> AbstractContextManager[None]:
    """Within, uip evaluates `way`."""
    if way != "plain":
        return contextlib.nullcontext()
    from uip.nn.fused import plain_form

    return plain_form()


original = functools.cache(structure)


class Bench:
    """What requests ask for: a method each, with the arguments of the request."""

    def __init__(self, way: str, calculator: Calculator) -> None:
        self.way, self.calculator = way, calculator
        self.rng = np.random.default_rng(0)

    def about(self) -> dict[str, str]:
        """Versions of this process, and the kernels that libuip has chosen."""
        found = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
        if self.way == "chgnet":
            return {**found, "chgnet": importlib.metadata.version("chgnet")}
        has_kernels = hasattr(torch.ops.uip, "cpu_kernels")  # an older uip has none
        return {**found, "kernels": torch.ops.uip.cpu_kernels() if has_kernels else "none"}

    def step(self, name: str) -> tuple[float, float]:
        """Wall and processor time, s, of neighbours, energy, forces, stress and magnetic moments of moved atoms."""
        atoms = original(name).copy()
        atoms.positions += self.rng.normal(0.0, 0.01, atoms.positions.shape)
        atoms.calc = self.calculator
        wall, cpu = time.perf_counter(), time.process_time()
        with form(self.way):
            atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_magnetic_moments()
        return time.perf_counter() - wall, time.process_time() - cpu

    def steps(self, structure: str, threads: int, seconds: float) -> dict[str, float]:
        """At least one step, for about `seconds`: mean wall and processor time of a step, ms."""
        torch.set_num_threads(threads)
        times: list[tuple[float, float]] = []
        while not times or sum(wall for wall, _ in times) < seconds:
            times.append(self.step(structure))
        wall, cpu = 1e3 * np.mean(times, axis=0)
        return {"wall_ms": float(wall), "cpu_ms": float(cpu)}

    def memory(self, structure: str) -> dict[str, float]:
        """MB: peak of loading and of a step of 8 atoms, peak of two steps of `structure`."""
        torch.set_num_threads(1)
        self.step("Si 8")
        load = memory_in_use("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self.step(structure), self.step(structure)
        return {"load_mb": load, "step_mb": memory_in_use("VmHWM")}

    def kernels(self, structure: str, rounds: int) -> list[dict[str, Any]]:
        """Rates of the fused ops and of torch's product of matrices; one thread."""
        from kernels import rates

        torch.set_num_threads(1)
        return rates(self.calculator.evaluator, structure, rounds)


def memory_in_use(key: str) -> float:
    """Such as VmHWM, the peak of this process, MB; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) / 1024


def serve(bench: Bench, answer: Callable[[Any], None]) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer(getattr(bench, request.pop("do"))(**request))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("chgnet", "plain", "eager", "program"))
    parser.add_argument("file", nargs="?", default=MODEL)
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer

    def answer(value: Any) -> None:
        channel.write(json.dumps(value) + "\n")
        channel.flush()

    bench = Bench(options.way, peer() if options.way == "chgnet" else ours(options.file, options.path))
    answer("ready")
    serve(bench, answer)


if __name__ == "__main__":
    main()
