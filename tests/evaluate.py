"""Short ways from ASE atoms to graphs and outputs, for tests."""

from __future__ import annotations

from ase import Atoms

from uip.data.read import structure_from_atoms
from uip.graph import Graph, Outputs
from uip.models.chgnet import CHGNet
from uip.models.heads import gradient_readout
from uip.neighbors import build_graph


def graph_of(model: CHGNet, atoms: Atoms) -> Graph:
    return build_graph(structure_from_atoms(atoms), model.cutoff, model.bond_cutoff).to(
        dtype=model.reference_energy.dtype
    )


def outputs_of(model: CHGNet, atoms: Atoms) -> Outputs:
    return gradient_readout(model, graph_of(model, atoms))


def energy_of(model: CHGNet, atoms: Atoms) -> float:
    return gradient_readout(model, graph_of(model, atoms), forces=False).energy.item()
