"""Short ways from ASE atoms to graphs and outputs, for tests."""

from __future__ import annotations

from ase import Atoms

from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph, Outputs
from uip.graph.neighbors import build_graph
from uip.models.potential import Potential
from uip.models.readout import evaluate


def graph_of(model: Potential, atoms: Atoms) -> Graph:
    structure = structure_from_atoms(atoms)
    return build_graph(structure, model.cutoff, model.bond_cutoff, model.soft).to(dtype=model.dtype)


def outputs_of(model: Potential, atoms: Atoms) -> Outputs:
    return evaluate(model, graph_of(model, atoms))


def energy_of(model: Potential, atoms: Atoms) -> float:
    return evaluate(model, graph_of(model, atoms), forces=False).energy.item()
