"""Readouts: from a model's atomic energies to energy, forces, virial and stress of a batch.

    run_model          the outputs of an exported program: atomic energies and gradients, by name
    assemble_outputs   forces, virial and stress from these outputs, by scatter (`uip.graph.forces`)
    evaluate           both

With the gradient readout the energy is differentiated once, with respect to edge vectors. With the direct readout the
model predicts this gradient, or the forces.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from uip.graph.batch import Graph, Outputs
from uip.graph.forces import forces_from_edge_grad, strain_gradient
from uip.models.potential import VECTORS, Output, Potential
from uip.nn.fused import second_derivatives


def evaluate(model: Potential, graph: Graph, *, forces: bool = True, training: bool = False) -> Outputs:
    """All outputs of a batch.

    Args:
        forces: False: a model with gradient readout computes only energies and magmoms.
        training: keep the autograd graph of the gradient, so that a loss on forces can be differentiated.

    The stress of a graph without three cell vectors is NaN, since it has no volume.
    """
    inputs = {name: value for name, value in graph.tensors().items() if name in model.inputs}
    if model.conservative and not forces:
        with torch.set_grad_enabled(training):
            return assemble_outputs(graph, _by_name(model, model(**inputs)))
    with torch.set_grad_enabled(training or model.conservative):
        outputs = assemble_outputs(graph, run_model(model, inputs, create_graph=training))
    return outputs if training else _detached(outputs)


def run_model(
    model: Potential, inputs: Mapping[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor | None]:
    """Outputs of the model and, if it is conservative, gradients of its energy, by their names in `uip.schema`.

    Args:
        inputs: must include all inputs of the model.
        create_graph: keep the autograd graph of the results, so that they can be differentiated again.
    """
    inputs = {name: inputs[name] for name in model.inputs}
    if not model.conservative:
        with torch.set_grad_enabled(create_graph):
            return _by_name(model, model(**inputs))
    variables = {"edge_grad": inputs["edge_vec"].detach().requires_grad_()}
    changed = {"edge_vec": variables["edge_grad"]}
    if model.needs_positions:
        positions = inputs["positions"].detach()
        variables["position_grad"] = changed["positions"] = positions.requires_grad_()
        strain = positions.new_zeros(inputs["graph_index"].shape[0], 3, 3)
        variables["strain_grad"] = changed["strain"] = strain.requires_grad_()
    with torch.enable_grad(), second_derivatives() if create_graph else nullcontext():
        output = model(**{**inputs, **changed})
        gradients = torch.autograd.grad(
            output.node_energy.sum(), list(variables.values()), create_graph=create_graph, materialize_grads=True
        )
    results = {**_by_name(model, output), **dict(zip(variables, gradients, strict=True))}
    return results if create_graph else {name: _detach(value) for name, value in results.items()}


def run_energies(model: Potential, inputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """`run_model` without gradients: energies of atoms, their uncertainty vectors, and magnetic moments."""
    with torch.no_grad():
        results = _by_name(model, model(**{name: inputs[name] for name in model.inputs}))
    return {name: results.get(name) for name in ("node_energy", "magmoms", VECTORS)}


def _by_name(model: Potential, output: Output) -> dict[str, Tensor | None]:
    """What the model returned, by name of `uip.schema`; features become uncertainty vectors. Untrained magnetic moments
    are left out."""
    results: dict[str, Tensor | None] = output._asdict()
    features = results.pop("features")
    if "magmoms" not in model.plain_outputs:
        results["magmoms"] = None
    if model.calibration is not None:
        results[VECTORS] = model.calibration(features)
    return results


def _detach(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def total_energy(node_energy: Tensor, graph: Graph) -> Tensor:
    """Energies of the graphs, (B,) eV."""
    return node_energy.new_zeros(graph.num_graphs).index_add(0, graph.graph_index, node_energy)


def assemble_outputs(graph: Graph, tensors: Mapping[str, Tensor | None]) -> Outputs:
    """All outputs of a batch from the outputs of a model or of an exported program, by name."""
    node_energy = tensors["node_energy"]
    assert node_energy is not None
    energy = total_energy(node_energy, graph)
    magmoms, edge_grad = tensors.get("magmoms"), tensors.get("edge_grad")
    uncertainties = _uncertainties(graph, tensors.get(VECTORS))
    if edge_grad is None:
        forces = tensors.get("forces")
        return Outputs(energy=energy, node_energy=node_energy, forces=forces, magmoms=magmoms, **uncertainties)
    forces = forces_from_edge_grad(edge_grad, graph.edge_index, graph.num_atoms)
    edge_graph = graph.graph_index.index_select(0, graph.edge_index[0])
    strain = strain_gradient(graph.edge_vec, edge_grad, edge_graph, graph.num_graphs)
    position_grad, strain_grad = tensors.get("position_grad"), tensors.get("strain_grad")
    if position_grad is not None and strain_grad is not None:
        forces = forces - position_grad
        strain = strain.index_add(0, graph.graph_index, strain_grad)
    # without invariance under rotations there is also an antisymmetric part, which is not a strain derivative
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
        **uncertainties,
    )


def _uncertainties(graph: Graph, vectors: Tensor | None) -> dict[str, Tensor]:
    """Lengths of the uncertainty vectors (N, H) of atoms, and of their sums over structures."""
    if vectors is None:
        return {}
    total = vectors.new_zeros(graph.num_graphs, vectors.shape[1]).index_add(0, graph.graph_index, vectors)
    return {
        VECTORS: vectors,
        "energy_uncertainty": torch.linalg.vector_norm(total, dim=1),
        "node_uncertainty": torch.linalg.vector_norm(vectors, dim=1),
    }


def _detached(outputs: Outputs) -> Outputs:
    present = {name: value.detach() for name, value in vars(outputs).items() if value is not None}
    return replace(outputs, **present)
