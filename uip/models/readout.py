"""Readouts: from a model's atomic energies to energy, forces, stress.

`gradient_readout` differentiates the energy once, with respect to edge vectors; `direct_readout` takes what
the model says in place of that gradient. Forces, virial and stress follow by scatter (`uip.graph`). `read_out`
takes the one that the model was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from uip.graph.batch import Graph, Outputs, forces_from_edge_grad, strain_gradient
from uip.models.potential import Potential


def total_energy(node_energy: Tensor, graph: Graph) -> Tensor:
    """Energies of the graphs, (B,) eV."""
    return node_energy.new_zeros(graph.num_graphs).index_add(0, graph.graph_index, node_energy)


def read_out(model: Potential, graph: Graph, *, forces: bool = True, training: bool = False) -> Outputs:
    """All outputs of a batch; see `gradient_readout` for arguments."""
    if model.conservative:
        return gradient_readout(model, graph, forces=forces, training=training)
    return direct_readout(model, graph, training=training)


def inputs_of(model: Potential, graph: Graph) -> dict[str, Tensor]:
    """The tensors that the model reads, by name."""
    present = graph.tensors()
    return {name: present[name] for name in model.inputs}


def direct_readout(model: Potential, graph: Graph, *, training: bool = False) -> Outputs:
    """All outputs of a batch from a model with direct readout; nothing is differentiated."""
    with torch.set_grad_enabled(training):
        return with_forces(graph, model(**inputs_of(model, graph))._asdict())


def gradient_readout(model: Potential, graph: Graph, *, forces: bool = True, training: bool = False) -> Outputs:
    """Energy, magmoms and, with `forces`, forces, virial and stress of a batch.

    Args:
        training: keep the graph of the gradient, so that a loss of forces can be differentiated again.

    Stress of a graph without three cell vectors is NaN: it has no volume.
    """
    if not forces:
        with torch.set_grad_enabled(training):
            output = model(**inputs_of(model, graph))
            energy = total_energy(output.node_energy, graph)
            return Outputs(energy=energy, node_energy=output.node_energy, magmoms=output.magmoms)
    with torch.enable_grad():
        tensors = energy_and_gradient(model, inputs_of(model, graph), create_graph=training)
        outputs = with_forces(graph, tensors)
    return outputs if training else detached(outputs)


def energy_and_gradient(
    model: Potential, inputs: Mapping[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor | None]:
    """What the model returns and the gradients of its energy, by their names in `uip.schema`."""
    variables = {"edge_grad": inputs["edge_vec"].detach().requires_grad_()}
    changed = {"edge_vec": variables["edge_grad"]}
    if model.feels_positions:
        positions = inputs["positions"].detach()
        variables["position_grad"] = changed["positions"] = positions.requires_grad_()
        strain = positions.new_zeros(inputs["graph_index"].shape[0], 3, 3)
        variables["strain_grad"] = changed["strain"] = strain.requires_grad_()
    output = model(**{**inputs, **changed})
    gradients = torch.autograd.grad(
        output.node_energy.sum(), list(variables.values()), create_graph=create_graph, materialize_grads=True
    )
    return {**output._asdict(), **dict(zip(variables, gradients, strict=True))}


def evaluated(model: Potential, inputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """What an exported program of the model would say of its inputs, without history."""
    if model.conservative:
        with torch.enable_grad():
            said = energy_and_gradient(model, inputs)
    else:
        with torch.no_grad():
            said = model(**inputs)._asdict()
    return {name: value if value is None else value.detach() for name, value in said.items()}


def with_forces(graph: Graph, tensors: Mapping[str, Tensor | None]) -> Outputs:
    """All outputs of a batch from what a model or an exported program gives, by name."""
    node_energy = tensors["node_energy"]
    assert node_energy is not None
    energy = total_energy(node_energy, graph)
    magmoms, edge_grad = tensors.get("magmoms"), tensors.get("edge_grad")
    if edge_grad is None:
        return Outputs(energy=energy, node_energy=node_energy, forces=tensors["forces"], magmoms=magmoms)
    forces = forces_from_edge_grad(edge_grad, graph.edge_index, graph.num_atoms)
    edge_graph = graph.graph_index.index_select(0, graph.edge_index[0])
    strain = strain_gradient(graph.edge_vec, edge_grad, edge_graph, graph.num_graphs)
    position_grad, strain_grad = tensors.get("position_grad"), tensors.get("strain_grad")
    if position_grad is not None and strain_grad is not None:
        forces = forces - position_grad
        strain = strain.index_add(0, graph.graph_index, strain_grad)
    # a model that is not invariant under rotations has an antisymmetric part too, which no strain sees
    strain = 0.5 * (strain + strain.mT)
    volume = graph.volume.view(-1, 1, 1)
    return Outputs(
        energy=energy,
        node_energy=node_energy,
        edge_grad=edge_grad,
        position_grad=position_grad,
        strain_grad=strain_grad,
        forces=forces,
        virial=-strain,
        stress=strain / torch.where(volume > 1e-9, volume, torch.nan),
        magmoms=magmoms,
    )


def detached(outputs: Outputs) -> Outputs:
    """The same numbers without their history."""
    present = {name: value.detach() for name, value in vars(outputs).items() if value is not None}
    return replace(outputs, **present)
