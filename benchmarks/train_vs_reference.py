"""One training step: uip against the training step of chgnet 0.4.2, on identical batches of real crystals.

    python benchmarks/train_vs_reference.py DATA.xyz [--batch 16 40] [--rounds 5]

The step: energies, forces and stress, Huber loss, gradients of all weights, one update of Adam. Graphs are built
beforehand for both. Time: processor time of this process, cases interleaved in each round, best of all rounds,
to reduce the influence of other processes. Memory: growth of the resident set of a new process in two steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from rich.console import Console
from rich.table import Table

from uip.data.dataset import GraphSettings, make_sample
from uip.data.labels import labels_from_atoms
from uip.data.sampler import assign_to_ranks
from uip.data.samples import Sample, join_targets
from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import batch
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.models.readout import evaluate
from uip.nn.fused import plain_form
from uip.train.loss import LossConfig, count_labels, penalties, residuals, scales
from uip.units import EV_PER_A3_TO_GPA

Step = Callable[[], float]
THEIRS = "chgnet 0.4.2"
OURS: dict[str, dict[str, Any]] = {
    "uip, gradient": {},
    "uip, gradient, four micro-batches": {"num_micro_batches": 4},
    "uip, gradient, plain modules": {"plain": True},
    "uip, direct": {"readout": "direct"},
}
WAYS = (THEIRS, *OURS)


def load(path: Path, size: int, seed: int = 0) -> list[Any]:
    """`size` random structures."""
    frames = read(path, ":")
    return [frames[k] for k in np.random.default_rng(seed).permutation(len(frames))[:size]]


def our_step(frames: list[Any], *, readout: str = "gradient", num_micro_batches: int = 1, plain: bool = False) -> Step:
    """One step of `uip.train`, its batch divided into micro-batches of similar cost; `plain`: no fused messages."""
    settings = GraphSettings(6.0, 3.0, None, tuple(range(1, 95)))
    every = [make_sample(structure_from_atoms(a), labels_from_atoms(a), settings) for a in frames]
    costs = np.array([4 * s.graph.num_atoms + 1.1 * s.graph.num_edges + s.graph.num_angles for s in every])
    samples = [joined([every[k] for k in shard]) for shard in assign_to_ranks(costs, num_micro_batches)]
    model, config = CHGNet(CHGNetConfig(readout=readout)), LossConfig(magmoms=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    counts = torch.stack([count_labels(sample.targets) for sample in samples]).sum(0)
    scale = scales(config.weights(0.0), counts).float()

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for sample in samples:
            with plain_form() if plain else nullcontext():
                outputs = evaluate(model, sample.graph, training=True)
            value = (scale * penalties(residuals(outputs, sample.targets, sample.graph), config)).sum()
            value.backward()
            total += float(value.detach())
        optimizer.step()
        return total

    return step


def joined(samples: list[Sample]) -> Sample:
    """Samples as one, float32."""
    targets = join_targets(sample.targets for sample in samples)
    return Sample(batch([sample.graph for sample in samples]), targets).to(dtype=torch.float32)


def their_step(frames: list[Any]) -> Step:
    """One step of chgnet's trainer: its model, its loss, its graphs."""
    from chgnet.model import CHGNet as TheirCHGNet
    from chgnet.trainer.trainer import CombinedLoss
    from pymatgen.io.ase import AseAtomsAdaptor

    model = TheirCHGNet().train()
    loss = CombinedLoss(target_str="efs", criterion="Huber", delta=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    graphs = [model.graph_converter(AseAtomsAdaptor.get_structure(a)) for a in frames]
    targets = {
        "e": torch.tensor([a.get_potential_energy() / len(a) for a in frames], dtype=torch.float32),
        "f": [torch.tensor(a.get_forces(), dtype=torch.float32) for a in frames],
        "s": [torch.tensor(a.get_stress(voigt=False) * EV_PER_A3_TO_GPA, dtype=torch.float32) for a in frames],
    }

    def step() -> float:
        optimizer.zero_grad()
        prediction = model(graphs, task="efs")
        value = loss(targets, prediction)["loss"]
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def make(way: str, frames: list[Any]) -> Step:
    """The step of one of `WAYS`."""
    return their_step(frames) if way == THEIRS else our_step(frames, **OURS[way])


def best_times(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Seconds of processor time of one step, the best of interleaved rounds."""
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(rounds):
        for way, step in steps.items():
            began = time.process_time()
            step()
            best[way] = min(best[way], time.process_time() - began)
    return best


def growth(way: str, path: Path, size: int) -> float:
    """MiB that two steps add to a new process."""
    command = [sys.executable, __file__, str(path), "--batch", str(size), "--grow", way]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def grow(way: str, frames: list[Any]) -> None:
    """What `growth` runs."""
    step = make(way, frames)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak after imports
    before = _status("VmRSS")
    step(), step()
    print((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    """KiB; not getrusage, whose peak a process inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Print one table per batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 40])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grow", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if options.grow:
        grow(options.grow, load(options.data, options.batch[0]))
        return
    for size in options.batch:
        frames = load(options.data, size)
        times = best_times({way: make(way, frames) for way in WAYS}, options.rounds)
        memory = {way: growth(way, options.data, size) for way in WAYS}
        table = Table("way", "s / step", "times faster", "MiB", "times less", title=f"batch {size}")
        for way in WAYS:
            ratios = times[WAYS[0]] / times[way], memory[WAYS[0]] / max(memory[way], 1e-9)
            table.add_row(way, f"{times[way]:.2f}", f"{ratios[0]:.2f}", f"{memory[way]:.0f}", f"{ratios[1]:.2f}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
