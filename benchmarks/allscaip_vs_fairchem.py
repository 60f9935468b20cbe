"""AllScAIP: uip against fairchem-core 2.24, the published code, with identical weights, interleaved.

    make bench-allscaip REQUIREMENTS=fairchem_requirements.txt
    python benchmarks/allscaip_vs_fairchem.py [--peer .venv-fairchem/bin/python] [--size sm] [--waters 64 512]

Energy and forces of periodic water, weights drawn by the peer (sizes as published, no encodings), float32; neighbours
included. The peer needs other package versions and has its own environment: `--peer` is its Python. Each code has one
process per system; calls are interleaved. The table gives the best time of each, the ratio of the bests and the median
of the ratios of neighbouring calls. Memory: peak of the first call on the system, above a process that has evaluated
eight waters before (Linux: VmHWM, reset before the call). GEMM rate: floating point operations needed for energy and
forces per best time, relative to the best rate of a product of the dominant shape (tokens x H with H x 2 H), measured
in the same process.

--memory N ... measures only memory, of both codes, one process each; a process that needs more than --limit GB is
ended.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.build import molecule
from scipy.spatial.transform import Rotation

warnings.filterwarnings("ignore")
SIZES = {
    "toy": {"hidden_size": 64, "num_layers": 2, "atten_num_heads": 2},
    "sm": {"hidden_size": 512, "num_layers": 6, "atten_num_heads": 8},
    "md": {"hidden_size": 640, "num_layers": 10, "atten_num_heads": 10},
}
SPACING = 3.105
"""A; of molecules, for water's density."""
WARM_UP = 8
"""Waters."""
Evaluate = Callable[[ase.Atoms], "tuple[float, np.ndarray]"]


def water(number: int) -> ase.Atoms:
    """A periodic box of `number` molecules on a cubic grid, rotated at random."""
    side = round(number ** (1 / 3))
    if side**3 != number:
        raise SystemExit(f"--waters and --memory need cubes (8, 27, 64, 216, 512, ...), got {number}")
    turns = Rotation.random(number, random_state=0)
    box = ase.Atoms(cell=[side * SPACING] * 3, pbc=True)
    for place, turn in zip(np.ndindex(side, side, side), turns, strict=True):
        one = molecule("H2O")
        one.positions = turn.apply(one.positions) + SPACING * np.array(place)
        box += one
    return box


def settings(size: str) -> dict[str, Any]:
    """As in fairchem's YAML, without encodings."""
    return {
        **SIZES[size],
        "use_freq_mask": False,
        "use_sincx_mask": False,
        "use_compile": False,
        "use_padding": False,
        "regress_forces": True,
        "direct_forces": False,
        "dataset_list": ["omol"],
        "atten_name": "math",
        "max_num_elements": 110,
        "max_atoms": 100,
        "max_batch_size": 1,
        "max_radius": 6.0,
        "knn_k": 30,
    }


# The two codes


def peer_model(size: str) -> torch.nn.Module:
    from fairchem.core.models.allscaip.AllScAIP import AllScAIPBackbone, AllScAIPGradientEnergyForceStressHead
    from fairchem.core.models.base import HydraModelV2

    torch.manual_seed(0)
    backbone = AllScAIPBackbone(**settings(size))
    head = AllScAIPGradientEnergyForceStressHead(backbone, wrap_property=False)
    return HydraModelV2(backbone, {"efs": head}).eval().requires_grad_(False)


def peer(size: str, weights: Path | None) -> Evaluate:
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    logging.disable(logging.WARNING)
    model = peer_model(size)
    if weights is not None:
        model.load_state_dict(torch.load(weights))

    def evaluate(atoms: ase.Atoms) -> tuple[float, np.ndarray]:
        data = AtomicData.from_ase(atoms, task_name="omol", r_edges=False)
        data.charge, data.spin = torch.tensor([0]), torch.tensor([1])
        found = model(atomicdata_list_to_batch([data]))["efs"]
        return float(found["energy"][0]), found["forces"].detach().numpy()

    return evaluate


def ours(size: str, weights: Path, mode: str) -> Evaluate:
    """`mode`: "uip"; "uip recomputed": layers store only their inputs; "uip .pt2": the exported file;
    "uip bfloat16" and "uip bfloat16 .pt2": products of weights in bfloat16."""
    from uip.graph.ase_io import structure_from_atoms
    from uip.importers.published import allscaip_from_fairchem
    from uip.inference.evaluator import load_evaluator, predict
    from uip.program.writer import export_model

    model = allscaip_from_fairchem(torch.load(weights), settings(size))
    recompute, half = mode == "uip recomputed", "bfloat16" in mode
    if mode != "uip":
        model.activation_budget = 0.0 if recompute else float("inf")
    dtype, file = "bfloat16" if half else "float32", weights.parent / f"{mode}.pt2"
    if ".pt2" in mode and not file.exists():
        export_model(model, file, dtype=dtype, native=True)
    evaluator = load_evaluator(file) if ".pt2" in mode else load_evaluator(model, dtype=dtype)

    def evaluate(atoms: ase.Atoms) -> tuple[float, np.ndarray]:
        (found,) = predict(evaluator, [structure_from_atoms(atoms)])
        return float(found["energy"]), found["forces"]

    return evaluate


# A worker: one process, one code; requests and answers are lines of JSON


def work(code: str, size: str, weights: Path, limit: float) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), int(limit * 1e9)))
    evaluate = peer(size, weights) if code == "fairchem" else ours(size, weights, code)
    for line in sys.stdin:
        request = json.loads(line)
        atoms = water(request.get("waters", WARM_UP))
        atoms.info.update(charge=0, spin=1)
        does = {"time": timed, "memory": added_memory, "work": multiplications, "gemm": gemm_rate}[request["what"]]
        try:
            answer = does(evaluate, atoms, size)
        except (RuntimeError, MemoryError) as error:
            if not limit or "memory" not in str(error).lower():
                raise
            answer = None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def timed(evaluate: Evaluate, atoms: ase.Atoms, size: str) -> dict[str, Any]:
    start = time.perf_counter()
    energy, forces = evaluate(atoms)
    return {"seconds": time.perf_counter() - start, "energy": energy, "forces": forces.tolist()}


def added_memory(evaluate: Evaluate, atoms: ase.Atoms, size: str) -> float:
    """GB."""
    warm_up = water(WARM_UP)
    warm_up.info.update(atoms.info)
    evaluate(warm_up)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_in_use("VmRSS")
    evaluate(atoms)
    return memory_in_use("VmHWM") - before


def memory_in_use(key: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, GB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) * 1024 / 1e9


def multiplications(evaluate: Evaluate, atoms: ase.Atoms, size: str) -> float:
    """Floating point operations of products of weights and tokens for energy and forces: one forward, one
    gradient, no gradients of weights, no recomputation."""
    from uip.graph.ase_io import structure_from_atoms
    from uip.graph.neighbors import build_graph
    from uip.models.allscaip import AllScAIPConfig
    from uip.ops.soft_rank import SoftNearest

    soft = SoftNearest()
    num_bonds = len(build_graph(structure_from_atoms(atoms), soft.reach, None, soft).bond_index)
    tokens, h = len(atoms) + num_bonds, SIZES[size]["hidden_size"]
    blocks = SIZES[size]["num_layers"] * (8 * tokens + 4 * num_bonds + 8 * len(atoms)) * h * h
    unread = (2 * num_bonds + 4 * num_bonds) * h * h  # of the last block: queries, outputs and feed-forward of bonds
    embedding = num_bonds * (AllScAIPConfig.num_radial + 36 + h) * h
    return float(2 * 2 * (blocks - unread + embedding))


def gemm_rate(evaluate: Evaluate, atoms: ase.Atoms, size: str) -> float:
    """Best of twenty, operations per second."""
    channels = SIZES[size]["hidden_size"]
    a, b = torch.randn(5000, channels), torch.randn(channels, 2 * channels)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2.0 * a.numel() * b.shape[1] / min(times)


class Worker:
    """One code in a separate process."""

    def __init__(self, code: str, arguments: argparse.Namespace, weights: Path, limit: float = 0.0) -> None:
        python = arguments.peer if code == "fairchem" else sys.executable
        command = [python, __file__, "--work", code, "--size", arguments.size, "--weights", weights]
        command += ["--threads", arguments.threads, "--limit", limit]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([str(word) for word in command], stdin=pipe, stdout=pipe, text=True)

    def ask(self, what: str, waters: int = WARM_UP) -> Any:
        """The answer of the worker; None if it ran out of memory."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"what": what, "waters": waters}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        self.process.communicate()


# The tables


def compare(arguments: argparse.Namespace, weights: Path) -> None:
    codes = ["fairchem", *arguments.modes]
    print(f"{'atoms':>6} {'code':18}{'best s':>9}{'best':>8}{'median':>8}{'memory GB':>11}{'ratio':>7}{'GEMM':>22}")
    for waters in arguments.waters:
        workers = {code: Worker(code, arguments, weights) for code in codes}
        memory = {code: worker.ask("memory", waters) for code, worker in workers.items()}
        runs = [{code: worker.ask("time", waters) for code, worker in workers.items()} for _ in range(arguments.rounds)]
        operations = workers[codes[1]].ask("work", waters)
        peak = max(workers[codes[1]].ask("gemm") for _ in range(3))
        for code in codes:
            best = min(run[code]["seconds"] for run in runs)
            ratios = [run["fairchem"]["seconds"] / run[code]["seconds"] for run in runs]
            first = min(run["fairchem"]["seconds"] for run in runs) / best
            line = f"{3 * waters:6} {code:18}{best:9.3f}{first:7.2f}x{statistics.median(ratios):7.2f}x"
            line += f"{memory[code]:11.3f}{memory['fairchem'] / memory[code]:6.1f}x"
            if code != "fairchem":
                line += f"{operations / best / 1e9:8.0f} GFLOP/s, {operations / best / peak:.0%}"
            print(line, flush=True)
        apart = differences(runs[0])
        print(f"{'':7}{apart}; GEMM peak {peak / 1e9:.0f} GFLOP/s", flush=True)
        for worker in workers.values():
            worker.end()


def differences(run: dict[str, Any]) -> str:
    """Differences of the results of both codes."""
    there = run["fairchem"]
    energy = max(abs(answer["energy"] - there["energy"]) for answer in run.values())
    force = max(np.abs(np.array(answer["forces"]) - there["forces"]).max() for answer in run.values())
    scale = np.abs(np.array(there["forces"])).max()
    return f"largest difference: energy {energy:.1e} of {there['energy']:.4f}, forces {force:.1e} of {scale:.2e}"


def compare_memory(arguments: argparse.Namespace, weights: Path) -> None:
    codes = ["fairchem", *arguments.modes]
    print(
        f"memory above base, GB; limit {arguments.limit:g} GB\n{'atoms':>6}" + "".join(f"{code:>19}" for code in codes)
    )
    for waters in arguments.memory:
        line = f"{3 * waters:6}"
        for code in codes:
            worker = Worker(code, arguments, weights, arguments.limit)
            answer = worker.ask("memory", waters)
            line += f"{'more than limit' if answer is None else f'{answer:.2f}':>19}"
            worker.end()
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".venv-fairchem/bin/python", help="a Python that has fairchem-core 2.24")
    parser.add_argument("--size", choices=SIZES, default="sm")
    parser.add_argument("--waters", type=int, nargs="*", default=[64, 512], help="molecules of each box: cubes")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="boxes of which memory alone is asked")
    parser.add_argument(
        "--modes",
        nargs="*",
        default=["uip"],
        help="of uip: 'uip', 'uip recomputed', 'uip .pt2', 'uip bfloat16', 'uip bfloat16 .pt2'",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20.0, help="GB, of a process under --memory")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.work == "weights":
        torch.save(peer_model(arguments.size).state_dict(), arguments.weights)
        return
    if arguments.work:
        work(arguments.work, arguments.size, arguments.weights, arguments.limit)
        return
    print(
        f"AllScAIP {arguments.size}, torch {torch.__version__}, {arguments.threads} threads, float32; "
        "ratios: fairchem / uip"
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        command = [arguments.peer, __file__, "--work", "weights", "--size", arguments.size, "--weights", str(weights)]
        subprocess.run(command, check=True)
        if arguments.waters:
            compare(arguments, weights)
        if arguments.memory:
            compare_memory(arguments, weights)


if __name__ == "__main__":
    main()
