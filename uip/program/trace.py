"""From a model to one graph of tensor operations: energy and gradient, traced together with symbolic sizes.

Engines then run no autograd. Used for `.pt2`, `.pt` (`uip.program.writer`) and stock openmm-torch
(`uip.program.torchforce`).
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from uip.checkpoint import for_inference
from uip.graph.batch import Graph, batch
from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.models.potential import Potential
from uip.models.readout import run_model
from uip.nn.basis import RadialBasis
from uip.parallel.collectives import use_ops
from uip.schema import FIELDS


def exact_form(model: Potential) -> Potential:
    """A float64 copy that evaluates its envelopes exactly, not with the published code's rounding errors."""
    exact = for_inference(deepcopy(model), dtype="float64", device="cpu")
    for module in exact.modules():
        if isinstance(module, RadialBasis):
            module.published_rounding = False
    return exact


def trace(model: Potential) -> GraphModule:
    """Energy and gradient as one graph of tensor operations, the ops of `uip.parallel` among them."""

    def program(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(model.inputs, tensors, strict=True))
        results = run_model(model, inputs)
        present = {name: value for name, value in results.items() if value is not None}
        return tuple(present[name].contiguous() for name in model.program_outputs)

    model.pack()
    with use_ops():
        return make_fx(program, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*sample_inputs(model))


def in_order(program: GraphModule) -> GraphModule:
    """The same, with sums by index through an op of libuip, whose order does not depend on threads: compiled programs
    would add with atomics, one number at a time. Processors only."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.index_add.default and node.args[1] == 0 and not node.kwargs:
            base, _, index, source = node.args
            with program.graph.inserting_before(node):
                other = program.graph.call_function(torch.ops.uip.index_add.default, (base, index, source))
            other.meta = node.meta
            node.replace_all_uses_with(other)
            program.graph.erase_node(node)
    program.recompile()
    return program


def sample_inputs(model: Potential) -> list[Tensor]:
    """Inputs to trace with. All sizes differ, ghosts included: equal ones would be taken for one and the same."""
    graph = _on_model(batch([cluster(num_atoms, model) for num_atoms in (8, 5, 7, 6)]), model)
    tensors = graph.tensors()
    tensors["atomic_numbers"] = torch.cat([graph.atomic_numbers, graph.atomic_numbers[:3]])
    sizes = {
        letter: size
        for name in model.inputs
        for letter, size in zip(FIELDS[name].shape, tensors[name].shape, strict=True)
    }
    assert len(set(sizes.values())) == len(sizes), sizes
    return [tensors[name] for name in model.inputs]


def cluster(num_atoms: int, model: Potential) -> Graph:
    """A few atoms near the points of a cubic grid, with many elements, bonds and angles."""
    rng = np.random.default_rng(num_atoms)
    spacing = 2.2 if model.soft is None else 0.55 * model.soft.reach  # so that not every edge is a bond
    grid = spacing * np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(2)])
    positions = grid[:num_atoms] + rng.uniform(-0.2, 0.2, (num_atoms, 3))
    elements = rng.choice(model.elements, num_atoms)
    return build_graph(check_structure(elements, positions), model.cutoff, model.bond_cutoff, model.soft)


def _on_model(graph: Graph, model: Potential) -> Graph:
    return graph.to(device=model.device, dtype=model.dtype)


# Graphs call overloads and symbolic sizes, TorchScript knows operators by name and plain sizes.
SCRIPT_NAMES = {"aten::sym_size": torch.ops.aten.size, "aten::sym_numel": torch.ops.aten.numel}


def scriptable(program: GraphModule) -> GraphModule:
    script = deepcopy(program)
    for node in script.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            packet = node.target.overloadpacket
            node.target = SCRIPT_NAMES.get(packet._qualified_op_name, packet)
    script.recompile()
    return script
