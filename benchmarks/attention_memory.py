"""Peak memory of attention over the atoms of all ranks, per rank: gather and ring, against formulas.

    python benchmarks/attention_memory.py [--atoms 10000] [--size 512,8] [--ranks 1 2 4] [--figure memory.png]
    python benchmarks/attention_memory.py --model 64,2,4,12          a step of a small AllScAIP, `uip.inference.domain`

One layer, forward and backward, float32, random numbers, ranks of mpi4py. "one rank" in the formula is the
memory of attention without communication for n atoms, measured. Each run uses separate processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from attention_model import Model, attention_memory

BIN = Path(sys.executable).parent


def peak() -> float:
    """Peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_op(num_atoms: int, channels: int, heads: int, ring: bool) -> float:
    """Memory of one layer on this rank, MB, without its own queries, keys, values and gradients."""
    import numpy as np
    from mpi4py import MPI

    from uip.parallel.collectives import EDGES, attend, use_communicator
    from uip.parallel.mpi import MPICommunicator

    comm = MPI.COMM_WORLD
    none = np.empty((0, 2))
    communicator = MPICommunicator(comm, none, {EDGES: none}, ring=ring)

    def layer(count: int) -> None:
        q, k, v = (torch.randn(count, channels).requires_grad_() for _ in range(3))
        index = torch.zeros(count, dtype=torch.int64)
        with use_communicator(communicator):
            attend(q, k, v, index, heads).sum().backward()

    layer(8)
    before = peak()
    layer(num_atoms // comm.size)
    return peak() - before


def measure_model(num_atoms: int, size: str, ring: bool) -> float:
    """Memory of a whole step on this rank, MB, without libraries; each rank builds the whole graph."""
    from allscaip_memory import water
    from attention_ranks import make_model
    from mpi4py import MPI

    from uip.graph.ase_io import structure_from_atoms
    from uip.inference.domain import predict_distributed
    from uip.inference.evaluator import load_evaluator

    evaluator = load_evaluator(make_model(size))
    predict_distributed(evaluator, structure_from_atoms(water(81)), MPI.COMM_WORLD, ring=ring)
    before = peak()
    predict_distributed(evaluator, structure_from_atoms(water(num_atoms)), MPI.COMM_WORLD, ring=ring)
    return peak() - before


def run(num_ranks: int, way: str, arguments: argparse.Namespace) -> float:
    """Largest memory of all ranks, MB."""
    words = [__file__, "--one", way, "--atoms", str(arguments.atoms), "--size", arguments.size]
    words += ["--model", arguments.model] if arguments.model else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
    # return freed memory at once, so that peaks are sums of allocated memory
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [str(BIN / "mpiexec"), "-n", str(num_ranks), sys.executable, "-m", "mpi4py", *words]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return max(json.loads(line) for line in output.splitlines() if line)


def one(way: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    channels, heads = (int(word) for word in arguments.size.split(","))
    if arguments.model:
        result = measure_model(arguments.atoms, arguments.model, way == "ring")
    else:
        result = measure_op(arguments.atoms, channels, heads, way == "ring")
    sys.stdout.write(json.dumps(result) + "\n")


def figure(rows: list[tuple[int, str, float, float]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    axes = (canvas := Figure(figsize=(5, 4), layout="constrained")).add_subplot()
    for way, colour in (("gather", "C0"), ("ring", "C1")):
        ranks, measured, formula = zip(*((r[0], r[2], r[3]) for r in rows if r[1] == way), strict=True)
        axes.plot(ranks, measured, "o", color=colour, label=f"{way}, measured")
        axes.plot(ranks, formula, "--", color=colour, label=f"{way}, formula")
    axes.set(xlabel="ranks", ylabel="MB a rank, one layer", ylim=0, title=title)
    axes.legend()
    canvas.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=10000)
    parser.add_argument("--size", default="512,8", help="channels,heads of the layer")
    parser.add_argument("--model", help="channels,layers,heads,k: a whole step instead of one layer")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments)
        return
    channels = int(arguments.size.split(",")[0])
    layer = Model(channels, 1, 0)
    print(f"{arguments.atoms} atoms, {arguments.model or arguments.size}: MB on the rank that needs most")
    rows = []
    for num_ranks in arguments.ranks:
        for way in ("gather", "ring"):
            measured = run(num_ranks, way, arguments)
            own = 10 * arguments.atoms / num_ranks * channels * layer.real  # q k v out, and their gradients, copies
            formula = own + attention_memory(layer, arguments.atoms, num_ranks, way == "ring")
            rows.append((num_ranks, way, measured, formula / 1e6))
            said = "" if arguments.model else f", formula {formula / 1e6:.0f}"
            print(f"  {num_ranks} ranks, {way}: {measured:.0f} measured{said}", flush=True)
    if arguments.figure:
        figure(rows, f"attention of {arguments.atoms} atoms, {channels} channels", arguments.figure)


if __name__ == "__main__":
    main()
