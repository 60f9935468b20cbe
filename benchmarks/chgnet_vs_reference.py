"""CHGNet: uip against chgnet 0.4.2, the published code, interleaved in one process.

    make bench                                           (or: pip install chgnet==0.4.2)
    python benchmarks/chgnet_vs_reference.py [--threads 2] [--repeats 10]

Energy, forces, stress and magnetic moments of one structure, weights of 0.3.0, float32, eager. "total"
includes building the graph. Each repeat times one call of each code, interleaved; the table gives the best
of each, the ratio of the bests, and the median of the ratios of neighbouring calls. Memory: peak of one
call, above a process that has already evaluated a small structure (Linux: VmHWM, reset before the call),
each code in a separate process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase
import torch
from ase.build import bulk

warnings.filterwarnings("ignore")


def structures() -> dict[str, ase.Atoms]:
    """Rattled supercells: silicon has few angles, magnesium oxide many (its second shell is at 2.98 A)."""
    silicon, oxide = bulk("Si", cubic=True), bulk("MgO", "rocksalt", a=4.21, cubic=True)
    cells = {"Si 64": (silicon, 2), "Si 216": (silicon, 3), "MgO 64": (oxide, 2), "MgO 216": (oxide, 3)}
    made = {}
    for name, (cell, repeat) in cells.items():
        made[name] = cell.repeat(repeat)
        made[name].rattle(0.05, seed=0)
    return made


@dataclass(frozen=True)
class Code:
    """The two steps of a code: graph, model."""

    graph: Callable[[ase.Atoms], object]
    model: Callable[[object], object]


def ours() -> Code:
    from uip.checkpoint import load_model
    from uip.graph.ase_io import structure_from_atoms
    from uip.graph.neighbors import build_graph
    from uip.models.readout import evaluate

    model = load_model("chgnet-0.3.0")
    return Code(
        graph=lambda atoms: build_graph(structure_from_atoms(atoms), model.cutoff, model.bond_cutoff).to(
            dtype=torch.float32
        ),
        model=lambda graph: evaluate(model, graph),
    )


def reference() -> Code:
    from chgnet.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    with contextlib.redirect_stdout(io.StringIO()):
        model = CHGNet.load(use_device="cpu", verbose=False)
    return Code(
        graph=lambda atoms: model.graph_converter(AseAtomsAdaptor.get_structure(atoms)),
        model=lambda graph: model.predict_graph(graph, task="efsm"),
    )


CODES = {"ours": ours, "reference": reference}


def peak_memory(code: str, structure: str, threads: int) -> float:
    """Memory that one evaluation adds to the peak of a new process, MB."""
    command = [sys.executable, __file__, "--memory", code, structure, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure_memory(code: str, structure: str) -> float:
    made, atoms = CODES[code](), structures()[structure]
    small = bulk("Si", cubic=True)
    made.model(made.graph(small))  # what is loaded on first use is not counted
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_in_use("VmRSS")
    made.model(made.graph(atoms))
    return memory_in_use("VmHWM") - before


def memory_in_use(key: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) / 1024


def clock(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    value = call()
    return (time.perf_counter() - start) * 1e3, value


def interleaved(codes: dict[str, Code], atoms: ase.Atoms, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(graph, model) times in ms of each repeat and code; the first round is warm-up and left out."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in codes}
    for _ in range(repeats + 1):
        for name, code in codes.items():
            graph_time, graph = clock(lambda code=code: code.graph(atoms))
            model_time, _ = clock(lambda code=code, graph=graph: code.model(graph))
            times[name].append((graph_time, model_time))
    return {name: values[1:] for name, values in times.items()}


def ratios(times: dict[str, list[tuple[float, float]]], pick: Callable[[tuple[float, float]], float]) -> str:
    a, b = ([pick(value) for value in times[name]] for name in ("reference", "ours"))
    median = statistics.median(x / y for x, y in zip(a, b, strict=True))
    return f"{min(a):9.1f}{min(b):8.1f}{min(a) / min(b):7.2f}x{median:8.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--memory", nargs=2, metavar=("CODE", "STRUCTURE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(measure_memory(*arguments.memory))
        return
    print(f"torch {torch.__version__}, python {platform.python_version()}, {arguments.threads} threads, float32, eager")
    print(f"python benchmarks/{Path(__file__).name} --threads {arguments.threads} --repeats {arguments.repeats}")
    head = f"{'ref ms':>9}{'uip ms':>8}{'best':>8}{'median':>9}"
    print(f"{'':10}|{'graph + model':^34}|{'model alone':^34}|{'peak memory above base, MB':^30}")
    print(f"{'':10}|{head}|{head}|{'ref':>9}{'uip':>9}{'ratio':>10}")
    codes = {name: make() for name, make in CODES.items()}
    for name, atoms in structures().items():
        times = interleaved(codes, atoms, arguments.repeats)
        memory = {code: peak_memory(code, name, arguments.threads) for code in CODES}
        print(
            f"{name:10}|{ratios(times, sum)}|{ratios(times, lambda value: value[1])}|"
            f"{memory['reference']:9.0f}{memory['ours']:9.0f}{memory['reference'] / memory['ours']:9.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
