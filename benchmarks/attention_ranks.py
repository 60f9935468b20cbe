"""AllScAIP on several ranks of LAMMPS: bytes and messages counted against `attention_model`, times, a large run.

    python benchmarks/attention_ranks.py                       counted and modelled, 1, 2, 4, 8 ranks (oversubscribed)
    python benchmarks/attention_ranks.py --speedup 3000        1 against 2 ranks, one thread each, interleaved
    python benchmarks/attention_ranks.py --large 100000        ring, 2 ranks, float32: wall time and memory of each rank
    python benchmarks/attention_ranks.py --constants           rates of `attention_model.CORE`, in CPU time of one core

Water; weights are random, time and memory do not depend on them. `--size sm` or CHANNELS,LAYERS,HEADS,K.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from allscaip_memory import water
from ase.io import write
from attention_model import (
    Model,
    Traffic,
    attention_operations,
    attention_traffic,
    bond_traffic,
    engine_traffic,
    local_operations,
)

from uip.graph.batch import Graph
from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.models.allscaip import SIZES, AllScAIP, AllScAIPConfig
from uip.parallel.collectives import attend
from uip.plugins import lammps_plugin_folder
from uip.program.writer import export_model

warnings.filterwarnings("ignore")
BIN = Path(sys.executable).parent
DECK = """
units metal
read_data water.data
mass 1 1.008
mass 2 15.999
pair_style uip attention {way}
pair_coeff * * {file} H O
neighbor 0.3 bin
compute uip all pair uip
thermo_style custom step pe c_uip[*]
thermo 1
velocity all create 300 1 loop geom
fix move all nve
timestep 0.0001
{warm}
run {steps}
write_dump all custom dump.last id proc x y z modify sort id format float %.16g
"""
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], close_fds=False)
sys.stderr.write(f"peak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6:.3f} GB\\n")
raise SystemExit(code)
"""
"""Runs one rank and says how much memory it has used."""


@dataclass(frozen=True)
class Run:
    """Last step of a run: bytes and messages of all ranks; seconds per step; peak memory of each rank, GB."""

    counted: Traffic
    wall: float
    owner: np.ndarray
    positions: np.ndarray
    peaks: list[float]


def make_model(size: str, radial: bool = False, **more: object) -> AllScAIP:
    torch.manual_seed(0)
    if size in SIZES:
        config = AllScAIPConfig(**SIZES[size], radial=radial, **more)
    else:
        channels, layers, heads, k = (int(word) for word in size.split(","))
        config = AllScAIPConfig(
            channels=channels, num_layers=layers, num_heads=heads, k=k, nearest=k + 20, radial=radial, **more
        )
    return AllScAIP(config).requires_grad_(False).eval()


def run_lammps(folder: Path, file: Path, num_ranks: int, way: str, *, warm: str = "run 1", steps: int = 1) -> Run:
    """Ranks write their peak memory at exit."""
    (folder / "in.ranks").write_text(DECK.format(way=way, file=file, warm=warm, steps=steps))
    program = next(file for file in files("lammps") if str(file) == "lammps/lmp").locate()
    mpi = next(file for file in files("mpich") if "libmpi.so" in file.name).locate().parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": lammps_plugin_folder()}
    environment |= {"LD_LIBRARY_PATH": str(mpi), "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
    measured = [sys.executable, "-c", MEASURED, str(program), "-in", "in.ranks", "-log", "log.ranks"]
    command = [str(BIN / "mpiexec"), "-n", str(num_ranks), *measured]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"lmp ended with {result.returncode}:\n{result.stdout[-3000:]}{result.stderr[-2000:]}")
    log = (folder / "log.ranks").read_text()
    last = [line.split() for line in log.splitlines() if re.match(r"\s*\d+\s", line) and len(line.split()) == 9][-1]
    frame = np.loadtxt(folder / "dump.last", skiprows=9, ndmin=2)
    return Run(
        Traffic(float(last[6]), float(last[8])),
        float(re.findall(r"Loop time of ([0-9.e+-]+)", log)[-1]) / steps,
        frame[:, 1].astype(int),
        frame[:, 2:5],
        [float(x) for x in re.findall(r"^peak ([0-9.]+) GB$", result.stderr, re.M)],
    )


def prepare(folder: Path, model: AllScAIP, num_atoms: int, *, recompute: bool = False) -> Path:
    """Writes the data file; returns the program."""
    atoms = water(num_atoms)
    atoms.wrap()
    write(folder / "water.data", atoms, format="lammps-data", specorder=["H", "O"])
    file = folder / "model.pt"
    export_model(model, file, dtype="float32", recompute=recompute)
    return file


def modelled(source: AllScAIP, graph: Graph, owner: np.ndarray, num_ranks: int, ring: bool) -> dict[str, Traffic]:
    """Of a step in which atoms belong to the ranks `owner` (N,): attention, bonds, and communication of LAMMPS."""
    config = source.config
    model = Model(config.channels, config.num_layers, config.k, graph.edge_vec.element_size(), config.radial)
    centre, neighbor = owner[graph.edge_index.numpy()]
    bonds = graph.bond_index.numpy()
    remote = centre != neighbor
    ghosts = np.unique(np.stack([centre, graph.edge_index[1].numpy()], 1)[remote], axis=0)  # reader, atom
    edge_pairs = pairs(centre, neighbor)
    return {
        "attention": attention_traffic(model, graph.num_atoms, num_ranks, ring),
        "bonds": bond_traffic(model, int(remote[bonds].sum()), pairs(centre[bonds], neighbor[bonds])),
        "engine": engine_traffic(len(ghosts), int(remote.sum()), edge_pairs, edge_pairs),
    }


def graph_of(source: AllScAIP, run: Run, num_atoms: int) -> Graph:
    atoms = water(num_atoms)
    structure = check_structure(atoms.numbers, run.positions, atoms.cell.array, True)
    return build_graph(structure, source.cutoff, None, source.soft).to(dtype=torch.float32)


def pairs(a: np.ndarray, b: np.ndarray) -> int:
    """Ordered pairs of different ranks."""
    return len(np.unique(np.stack([a, b], 1)[a != b], axis=0))


def compare_traffic(size: str, num_atoms: int, ranks: list[int]) -> None:
    print("  ranks way      bytes counted     modelled   (attention)   messages counted  modelled", flush=True)
    for radial in (False, True):
        source = make_model(size, radial)
        with tempfile.TemporaryDirectory() as name:
            file = prepare(Path(name), source, num_atoms)
            for num_ranks in ranks:
                for way in ("gather", "ring"):
                    run = run_lammps(Path(name), file, num_ranks, way)
                    parts = modelled(source, graph_of(source, run, num_atoms), run.owner, num_ranks, way == "ring")
                    total = sum(parts.values(), Traffic(0, 0))
                    share = parts["attention"].num_bytes / max(1, total.num_bytes)
                    print(
                        f"  {num_ranks:5} {way:6} {run.counted.num_bytes:15,.0f} {total.num_bytes:12,.0f} {share:12.0%}"
                        f" {run.counted.messages:18,.0f} {total.messages:9,.0f} {'radial' if radial else ''}",
                        flush=True,
                    )


def speedup(size: str, num_atoms: int, rounds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = prepare(Path(name), make_model(size), num_atoms)
        for way in ("gather", "ring"):
            ratios = []
            for _ in range(rounds):
                one, two = (run_lammps(Path(name), file, n, way, steps=steps) for n in (1, 2))
                ratios.append(one.wall / two.wall)
                print(
                    f"  {way}: 1 rank {one.wall:.2f} s a step, 2 ranks {two.wall:.2f} s, {ratios[-1]:.2f}x", flush=True
                )
            print(f"  {way}: median of {rounds} neighbouring runs {statistics.median(ratios):.2f}x", flush=True)


def large(size: str, num_atoms: int, num_ranks: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = prepare(Path(name), make_model(size), num_atoms, recompute=True)
        start = time.perf_counter()
        run = run_lammps(Path(name), file, num_ranks, "ring", warm="", steps=steps)
        print(
            f"  {len(run.owner)} atoms, {num_ranks} ranks, ring: {time.perf_counter() - start:.0f} s in all for "
            f"{steps + 1} evaluations, {run.wall:.1f} s a step; peak of each rank {run.peaks} GB; "
            f"{run.counted.num_bytes / 1e6:,.0f} MB and {run.counted.messages:,.0f} messages a step",
            flush=True,
        )


def cpu_seconds(work: object, repeats: int = 3) -> float:
    """CPU time of this process, minimum of some repeats, since the machine may be busy."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def attention_rate(size: str, num_atoms: int) -> float:
    """Operations per second of one layer's attention over all atoms, forward and backward."""
    config, index = make_model(size).config, torch.zeros(num_atoms, dtype=torch.int64)
    q, k, v = (torch.randn(num_atoms, config.channels).requires_grad_() for _ in range(3))
    taken = cpu_seconds(lambda: attend(q, k, v, index, config.num_heads).sum().backward())
    return attention_operations(Model(config.channels, 1, config.k), num_atoms) / taken


def local_rate(size: str, num_atoms: int) -> float:
    """Operations per second of the rest, without building the graph."""
    from uip.graph.ase_io import structure_from_atoms
    from uip.inference.evaluator import load_evaluator

    source = make_model(size, node_attention=False)
    evaluator = load_evaluator(source)
    graph = evaluator.neighbor_list().build(structure_from_atoms(water(num_atoms)))
    bonds = graph.bond_index.shape[0] / graph.num_atoms
    model = Model(source.config.channels, source.config.num_layers, bonds)
    print(f"  {bonds:.1f} bonds of an atom", flush=True)
    return local_operations(model, graph.num_atoms) / cpu_seconds(lambda: evaluator(graph), 2)


def constants(size: str) -> None:
    torch.set_num_threads(1)
    for num_atoms in (1029, 3000):
        print(f"  attention, {num_atoms} atoms: {attention_rate(size, num_atoms):.3g} operations a second", flush=True)
    print(f"  local layers, 1029 atoms: {local_rate(size, 1029):.3g} operations a second", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="64,2,4,12")
    parser.add_argument("--atoms", type=int, default=375)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--speedup", type=int, metavar="ATOMS")
    parser.add_argument("--large", type=int, metavar="ATOMS")
    parser.add_argument("--constants", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}; python benchmarks/attention_ranks.py {' '.join(sys.argv[1:])}", flush=True)
    if arguments.speedup:
        speedup(arguments.size, arguments.speedup, arguments.rounds, arguments.steps)
    elif arguments.large:
        large(arguments.size, arguments.large, 2, arguments.steps)
    elif arguments.constants:
        constants(arguments.size)
    else:
        compare_traffic(arguments.size, arguments.atoms, arguments.ranks)


if __name__ == "__main__":
    main()
