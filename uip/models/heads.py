"""Readouts: from a model's atomic energies to energy, forces, stress.

`gradient_readout` differentiates the energy once, with respect to edge vectors; `direct_readout` takes what
the model says in place of that gradient. Forces, virial and stress follow by scatter (`uip.graph`). `read_out`
takes the one that the model was made for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from uip.graph import Graph, Outputs, forces_from_edge_grad, strain_gradient
from uip.models.chgnet import CHGNet


def total_energy(node_energy: Tensor, graph: Graph) -> Tensor:
    """Energies of the graphs, (B,) eV."""
    return node_energy.new_zeros(graph.num_graphs).index_add(0, graph.graph_index, node_energy)


def read_out(model: CHGNet, graph: Graph, *, forces: bool = True, training: bool = False) -> Outputs:
    """All outputs of a batch; see `gradient_readout` for arguments."""
    if model.conservative:
        return gradient_readout(model, graph, forces=forces, training=training)
    return direct_readout(model, graph, training=training)


def direct_readout(model: CHGNet, graph: Graph, *, training: bool = False) -> Outputs:
    """All outputs of a batch from a model with direct readout; nothing is differentiated."""
    with torch.set_grad_enabled(training):
        output = model(
            graph.atomic_numbers,
            graph.graph_index,
            graph.edge_index,
            graph.edge_vec,
            graph.bond_index,
            graph.reverse_bond,
            graph.angle_index,
        )
        assert output.edge_grad is not None
        return with_forces(graph, output.node_energy, output.edge_grad, output.magmoms)


def gradient_readout(model: CHGNet, graph: Graph, *, forces: bool = True, training: bool = False) -> Outputs:
    """Energy, magmoms and, with `forces`, forces, virial and stress of a batch.

    Args:
        training: keep the graph of the gradient, so that a loss of forces can be differentiated again.

    Stress of a graph without three cell vectors is NaN: it has no volume.
    """
    edge_vec = graph.edge_vec.detach().requires_grad_(forces)
    with torch.set_grad_enabled(forces or training):
        output = model(
            graph.atomic_numbers,
            graph.graph_index,
            graph.edge_index,
            edge_vec,
            graph.bond_index,
            graph.reverse_bond,
            graph.angle_index,
        )
        if not forces:
            energy = total_energy(output.node_energy, graph)
            return Outputs(energy=energy, node_energy=output.node_energy, magmoms=output.magmoms)
        (edge_grad,) = torch.autograd.grad(
            output.node_energy.sum(), edge_vec, create_graph=training, materialize_grads=True
        )
        outputs = with_forces(graph, output.node_energy, edge_grad, output.magmoms)
    return outputs if training else detached(outputs)


def with_forces(graph: Graph, node_energy: Tensor, edge_grad: Tensor, magmoms: Tensor | None) -> Outputs:
    """All outputs of a batch from what a model or an exported program gives: (N,), (E, 3) and (N,)."""
    edge_graph = graph.graph_index.index_select(0, graph.edge_index[0])
    strain = strain_gradient(graph.edge_vec, edge_grad, edge_graph, graph.num_graphs)
    volume = graph.volume.view(-1, 1, 1)
    return Outputs(
        energy=total_energy(node_energy, graph),
        node_energy=node_energy,
        edge_grad=edge_grad,
        forces=forces_from_edge_grad(edge_grad, graph.edge_index, graph.num_atoms),
        virial=-strain,
        stress=strain / torch.where(volume > 1e-9, volume, torch.nan),
        magmoms=magmoms,
    )


def detached(outputs: Outputs) -> Outputs:
    """The same numbers without their history."""
    present = {name: value.detach() for name, value in vars(outputs).items() if value is not None}
    return replace(outputs, **present)
