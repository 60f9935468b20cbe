"""Model files of a few lines, for what no published model shows: charge and spin, direct forces, NaN."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.program.writer import append_record
from uip.schema import SCHEMA_VERSION

INPUTS = ("atomic_numbers", "edge_index", "edge_vec", "charge", "spin")


class Charged(nn.Module):
    """node_energy = charge + 10 spin + sum of squared edges / 2; its gradient."""

    def forward(
        self, atomic_numbers: Tensor, edge_index: Tensor, edge_vec: Tensor, charge: Tensor, spin: Tensor
    ) -> tuple[Tensor, Tensor]:
        energy = edge_vec.new_zeros(atomic_numbers.shape[0])
        energy = energy.index_add(0, edge_index[0], 0.5 * (edge_vec * edge_vec).sum(1))
        return energy + charge.to(energy.dtype) + 10.0 * spin.to(energy.dtype), edge_vec


class Direct(nn.Module):
    """Energy zero, the force on each atom its atomic number along x."""

    def forward(
        self, atomic_numbers: Tensor, edge_index: Tensor, edge_vec: Tensor, charge: Tensor, spin: Tensor
    ) -> tuple[Tensor, Tensor]:
        forces = edge_vec.new_zeros((atomic_numbers.shape[0], 3))
        forces[:, 0] = atomic_numbers.to(forces.dtype)
        return forces[:, 1], forces


class Bursting(nn.Module):
    """Right for the sample; NaN energies as soon as two atoms are closer than 0.5 A."""

    def forward(
        self, atomic_numbers: Tensor, edge_index: Tensor, edge_vec: Tensor, charge: Tensor, spin: Tensor
    ) -> tuple[Tensor, Tensor]:
        energy = edge_vec.new_zeros(atomic_numbers.shape[0])
        return energy + torch.sqrt((edge_vec * edge_vec).sum(1).min().sqrt() - 0.5), torch.zeros_like(edge_vec)


def write_program(program: nn.Module, path: Path, **changes: Any) -> Path:
    """Write `program` as `uip export -o x.pt` would; `changes` replace entries of its record."""
    structure = check_structure([8, 1, 1], [[0, 0, 0], [0, 0, 1.0], [0, 0.9, 0]])
    graph = build_graph(structure, 4.0).to(dtype=torch.float64)
    inputs = [graph.tensors()[name] for name in INPUTS]
    outputs = changes.get("outputs", ["node_energy", "edge_grad"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = torch.jit.script(program)
    script.save(str(path))
    answers = dict(zip(outputs, script(*inputs), strict=True))
    record = {
        "schema_version": SCHEMA_VERSION,
        "model": "test",
        "name": "test",
        "torch_version": str(torch.__version__),
        "dtype": "float64",
        "device": "cpu",
        "cutoff": 4.0,
        "bond_cutoff": 0.0,
        "elements": [1, 8],
        "inputs": list(INPUTS),
        "outputs": outputs,
        "conservative": True,
        "parallel": True,
        "instructions": "",
        "licence": "",
        "theory": "",
        "reference": "",
        "provenance": "",
        "self_tests": [{"inputs": dict(zip(INPUTS, inputs, strict=True)), "outputs": answers}],
        **changes,
    }
    append_record(path, record)
    return path
