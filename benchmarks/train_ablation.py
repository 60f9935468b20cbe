"""Ablation of the techniques in CHGNet training: a step with plain modules, one technique replaced at a time.

    python benchmarks/train_ablation.py DATA.xyz [--batch 16] [--rounds 3]

The replacement is the method of chgnet 0.4.2, by replacing a function of uip; the printed losses agree to rounding.

    split angle layers     the first layer of angle messages acts on a concatenation, once per angle
    packed layers          core and gate of first layers are multiplied one after the other
    no dead update         a third angle update, whose result is not used, is computed and differentiated
    short envelope         the envelope is evaluated term by term, with powers
    one gradient           forces and stress from two differentiations, with respect to positions and to strain
    one batch              structures go through the model one by one

Processor time of this process, one thread, cases interleaved, best of all rounds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train_vs_reference import joined, load

from uip.data.dataset import GraphSettings, make_sample
from uip.data.labels import labels_from_atoms
from uip.data.samples import Sample
from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph, Outputs, edge_vectors
from uip.models import chgnet
from uip.models.chgnet import AngleUpdate, BondUpdate, CHGNet, CHGNetConfig, Pairs
from uip.models.readout import evaluate, total_energy
from uip.nn.fused import plain_form
from uip.nn.mlp import GatedMLP
from uip.train.loss import LossConfig, count_labels, penalties, residuals, scales


def joined_angle_message(mlp: GatedMLP, e: Tensor, t: Tensor, v: Tensor, bond_centre: Tensor, angles: Pairs) -> Tensor:
    """`chgnet.angle_message` with its first layer on a concatenation."""
    first, second = angles.row.index, angles.column.index
    return mlp(mlp.first(torch.cat([e[first], e[second], t, v[bond_centre[first]]], dim=1)))


def two_products(self: GatedMLP, x: Tensor, part: int) -> Tensor:
    """`GatedMLP.project` with separate products for core and gate."""
    core, gate = self.weight(part).chunk(2)
    return torch.cat([F.linear(x, core), F.linear(x, gate)], dim=1)


def two_gradients(model: CHGNet, graph: Graph, *, training: bool) -> Outputs:
    """Forces from one differentiation, virial from another."""
    positions = graph.positions.detach().requires_grad_()
    strain = torch.zeros_like(graph.cell).requires_grad_()
    stretched = positions + torch.einsum("nk,nkl->nl", positions, strain[graph.graph_index])
    cell = graph.cell + graph.cell @ strain
    vectors = edge_vectors(stretched, cell, graph.edge_index, graph.shifts, graph.graph_index)
    output = model(**{**{name: graph.tensors()[name] for name in model.inputs}, "edge_vec": vectors})
    (slope,) = torch.autograd.grad(output.node_energy.sum(), positions, create_graph=training)
    (stretch,) = torch.autograd.grad(output.node_energy.sum(), strain, create_graph=training)
    energy = total_energy(output.node_energy, graph)
    return Outputs(energy=energy, node_energy=output.node_energy, forces=-slope, virial=-0.5 * (stretch + stretch.mT))


def dead_update(model: CHGNet) -> AbstractContextManager[Any]:
    """An angle update after the last bond update, whose result is not used."""
    extra, last, original = AngleUpdate(model.config), model.bond_updates[-1], BondUpdate.forward

    def forward(self: BondUpdate, *arguments: Any) -> Tensor:
        e = original(self, *arguments)
        _, t, v, _, centre, _, angles = arguments
        return e + 0.0 * extra(e, t, v, centre, angles).sum() if self is last else e

    return patch.object(BondUpdate, "forward", forward)


TECHNIQUES: dict[str, Callable[[CHGNet], AbstractContextManager[Any]]] = {
    "nothing": lambda model: nullcontext(),
    "split angle layers": lambda model: patch.object(chgnet, "angle_message", joined_angle_message),
    "packed layers": lambda model: patch.object(GatedMLP, "project", two_products),
    "no dead update": dead_update,
    "short envelope": lambda model: patch.multiple(model.edge_basis, published_rounding=True),
    "one gradient": lambda model: nullcontext(),
    "one batch": lambda model: nullcontext(),
}


def step(model: CHGNet, samples: list[Sample], off: str) -> float:
    """Loss and gradients of all weights."""
    config = LossConfig(magmoms=0.0)
    counts = torch.stack([count_labels(sample.targets) for sample in samples]).sum(0)
    scale = scales(config.weights(0.0), counts).float()
    model.zero_grad()
    total, readout = 0.0, two_gradients if off == "one gradient" else evaluate
    with plain_form(), TECHNIQUES[off](model):
        for sample in samples:
            outputs = readout(model, sample.graph, training=True)
            value = (scale * penalties(residuals(outputs, sample.targets, sample.graph), config)).sum()
            value.backward()
            total += float(value.detach())
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    settings = GraphSettings(6.0, 3.0, None, tuple(range(1, 95)))
    frames = load(options.data, options.batch)
    single = [make_sample(structure_from_atoms(a), labels_from_atoms(a), settings) for a in frames]
    whole, apart = [joined(single)], [sample.to(dtype=torch.float32) for sample in single]
    model, best, losses = CHGNet(CHGNetConfig()), dict.fromkeys(TECHNIQUES, float("inf")), {}
    for _ in range(options.rounds + 1):  # the first is warm-up
        for off in TECHNIQUES:
            began = time.process_time()
            losses[off] = step(model, apart if off == "one batch" else whole, off)
            best[off] = min(best[off], time.process_time() - began)
    table = Table("off", "s / step", "times slower", "loss", title=f"batch {options.batch}")
    for off, seconds in best.items():
        table.add_row(off, f"{seconds:.2f}", f"{seconds / best['nothing']:.2f}", f"{losses[off]:.6f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
