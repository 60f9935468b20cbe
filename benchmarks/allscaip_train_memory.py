"""Peak memory and time of one training step on one structure against its number of atoms: AllScAIP, loss of energy,
forces and stress.

    python benchmarks/allscaip_train_memory.py [--atoms 500 1000 2000 4000] [--radial] [--ways WAY ...]

Four cases: attention over all atoms without or with tiles, token layers stored or recomputed (`run.recompute`).
Periodic water, float32, random weights of a small model: 64 channels, 4 heads, 2 layers, 12 neighbours.
Each number is from a separate process, above its memory for 24 atoms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch
from allscaip_memory import peak, water

SHAPE = {"channels": 64, "num_layers": 2, "num_heads": 4, "num_radial": 64, "k": 12.0, "nearest": 24}
WAYS = {"whole, kept": (False, False), "whole, recomputed": (False, True), "tiles, kept": (True, False)}
WAYS["tiles, recomputed"] = (True, True)


def model(radial: bool, recompute: bool):
    from uip.models.allscaip import AllScAIP, AllScAIPConfig

    torch.manual_seed(0)
    result = AllScAIP(AllScAIPConfig(**SHAPE, radial=radial)).train()
    result.recompute = recompute
    return result


def step(potential, graph) -> None:
    """Compute gradients of all weights."""
    from uip.models.readout import evaluate

    outputs = evaluate(potential, graph, training=True)
    loss = outputs.energy.square().mean() * 1e-6 + outputs.forces.square().mean() + outputs.stress.square().mean()
    loss.backward()


def measure(num_atoms: int, radial: bool, way: str) -> dict[str, float]:
    from uip.graph.ase_io import structure_from_atoms
    from uip.graph.neighbors import build_graph
    from uip.ops import attention

    tiles, recompute = WAYS[way]
    attention.TILE = attention.TILE if tiles else 2**62
    potential = model(radial, recompute)

    def graph_of(count: int):
        structure = structure_from_atoms(water(count))
        return build_graph(structure, potential.cutoff, potential.bond_cutoff, potential.soft).to(dtype=torch.float32)

    step(potential, graph_of(24))
    base, graph = peak(), graph_of(num_atoms)
    start = time.process_time()
    step(potential, graph)
    return {"atoms": graph.num_atoms, "seconds": time.process_time() - start, "GB": peak() - base}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--radial", action="store_true")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(int(arguments.one[0]), arguments.radial, arguments.one[1])))
        return
    for num_atoms in arguments.atoms:
        for way in arguments.ways:
            command = [sys.executable, __file__, "--one", str(num_atoms), way] + ["--radial"] * arguments.radial
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                print(f"{num_atoms:6d} atoms  {way:18}  failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
                continue
            row = json.loads(done.stdout)
            print(f"{row['atoms']:6d} atoms  {way:18}  {row['GB']:6.2f} GB  {row['seconds']:7.1f} s", flush=True)


if __name__ == "__main__":
    main()
