"""What the LAMMPS plugin itself costs: a step with a program that does nothing, less one with `pair_style zero full`.

    python benchmarks/engine_overhead.py [--cells 15] [--threads 1 2] [--steps 10] [--repeats 5]

The program has the cutoffs and inputs of CHGNet (6 A and 3 A, float32) and returns the vectors of edges as their
gradients. LAMMPS moves silicon at 300 K without forces (15 cells: 27,000 atoms). The table gives times per atom:
"step", with the neighbour list of earlier steps; "new list", what a step with a new list takes longer; "LAMMPS", what
it takes longer without uip. Each number comes from the least times of the repeats. One thread: processor time, which
other programs disturb less than wall time; more threads: wall time, which needs a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.plugins import lammps_plugin_folder
from uip.program.writer import append_record
from uip.schema import SCHEMA_VERSION

INPUTS = ("atomic_numbers", "graph_index", "edge_index", "edge_vec", "bond_index", "reverse_bond", "angle_index")
OUTPUTS = ("node_energy", "edge_grad")
CUTOFF, BOND_CUTOFF = 6.0, 3.0

DECK = """
units metal
atom_modify map array
lattice diamond 5.43
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 28.085
displace_atoms all random 0.05 0.05 0.05 1
velocity all create 300 1
pair_style {style}
pair_coeff * * {coeff}
fix move all nve/noforce
thermo {steps}
neigh_modify {lists}
"""


class Idle(nn.Module):
    """No energy, and vectors as their gradients: no memory is written."""

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return edge_vec.new_zeros(graph_index.shape[0]), edge_vec


def write_idle(path: Path) -> None:
    """Write the program, with the record of a model file."""
    structure = check_structure([14, 14], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.4]], None, False)
    tensors = build_graph(structure, CUTOFF, BOND_CUTOFF).tensors()
    inputs = {name: tensors[name] for name in INPUTS}
    inputs["edge_vec"] = inputs["edge_vec"].float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = torch.jit.script(Idle())
    answers = dict(zip(OUTPUTS, script(*inputs.values()), strict=True))
    script.save(str(path))
    texts = dict.fromkeys(("instructions", "licence", "theory", "reference", "provenance"), "")
    record = {
        "schema_version": SCHEMA_VERSION,
        "model": "idle",
        "name": "idle",
        "torch_version": str(torch.__version__),
        "dtype": "float32",
        "device": "cpu",
        "cutoff": CUTOFF,
        "bond_cutoff": BOND_CUTOFF,
        "elements": [14],
        "inputs": list(INPUTS),
        "outputs": list(OUTPUTS),
        "conservative": True,
        "parallel": True,
        "self_tests": [{"inputs": inputs, "outputs": answers}],
        **texts,
    }
    append_record(path, record)


STYLES = {"uip": "idle.pt Si", "zero 6.0 full": ""}
LISTS = ("delay 1000000", "every 1 delay 0 check no")


def seconds(folder: Path, options: argparse.Namespace, threads: int, style: str, lists: str) -> float:
    """The least time of a step."""
    deck = DECK.format(cells=options.cells, steps=options.steps, lists=lists, style=style, coeff=STYLES[style])
    (folder / "in.deck").write_text(deck + f"run {options.steps}\n" * options.repeats)
    command = [str(Path(sys.executable).parent / "lmp"), "-in", "in.deck", "-nocite"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LAMMPS_PLUGIN_PATH": lammps_plugin_folder()}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"lmp must run, but ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    loops = [float(value) for value in re.findall(r"^Loop time of ([\d.e+-]+)", done.stdout, re.M)]
    shares = [float(value) / 100 for value in re.findall(r"([\d.]+)% CPU use", done.stdout)]
    assert len(loops) == len(shares) == options.repeats, done.stdout
    times = [loop * share if threads == 1 else loop for loop, share in zip(loops, shares, strict=True)]
    return min(times) / options.steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    atoms = 8 * options.cells**3
    table = Table("threads", "step", "new list", "LAMMPS", title=f"Si, {atoms} atoms, us an atom")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_idle(folder / "idle.pt")
        for threads in options.threads:
            kept, new = ([seconds(folder, options, threads, style, lists) for style in STYLES] for lists in LISTS)
            step, lists, idle = kept[0] - kept[1], (new[0] - kept[0]) - (new[1] - kept[1]), new[1] - kept[1]
            table.add_row(str(threads), *(f"{1e6 * value / atoms:.2f}" for value in (step, lists, idle)))
    Console().print(table)


if __name__ == "__main__":
    main()
