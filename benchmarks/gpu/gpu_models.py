"""Both models on a GPU in float32 against the CPU in float64: energy, forces, stress, and gradients of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import ase
import numpy as np
import torch
from ase.build import bulk
from torch import Tensor

import uip
from uip.checkpoint import load_model
from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph, batch
from uip.graph.neighbors import build_graph
from uip.models.allscaip import SIZES, AllScAIP, AllScAIPConfig
from uip.models.potential import Potential
from uip.models.readout import evaluate

Row = dict[str, Any]
TOLERANCE = 1e-3
"""float32, relative to the largest number of a kind."""


def crystal(cells: int, seed: int = 0) -> ase.Atoms:
    """Magnesium oxide out of equilibrium, 8 atoms a cell."""
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(cells)
    atoms.rattle(0.1, seed=seed)
    return atoms


def make_model(name: str, *, dry: bool) -> Potential:
    """float64, on the CPU: the published CHGNet, or an AllScAIP of a published size with random weights."""
    if name == "chgnet":
        return load_model("chgnet-0.3.0", dtype="float64")
    torch.manual_seed(0)
    small = {"channels": 16, "num_layers": 1, "num_heads": 2, "num_radial": 8}
    size = small if dry else SIZES[name.removeprefix("allscaip-")]
    return AllScAIP(AllScAIPConfig(**size)).double().requires_grad_(False).eval()


def graph_of(model: Potential, systems: list[ase.Atoms]) -> Graph:
    structures = [structure_from_atoms(atoms) for atoms in systems]
    return batch([build_graph(structure, model.cutoff, model.bond_cutoff, model.soft) for structure in structures])


def compare(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> Row:
    """Errors relative to the largest number of each kind."""
    errors = {
        name: float(np.abs(got[name] - exact).max() / max(1e-6, np.abs(exact).max()))
        for name, exact in expected.items()
    }
    right = all(np.isfinite(error) and error < TOLERANCE for error in errors.values())
    return {**{name: f"{error:.1e}" for name, error in errors.items()}, "right": right}


def check_calculator(name: str, setting: Any) -> Row:
    """Through ASE."""
    model = make_model(name, dry=setting.dry)
    results = []
    for device, dtype in (("cpu", "float64"), (str(setting.device), "float32")):
        atoms = crystal(1 if setting.dry else 2)
        atoms.calc = uip.Calculator(deepcopy(model), device=device, dtype=dtype)
        energy = np.array(atoms.get_potential_energy())
        results.append({"energy": energy, "forces": atoms.get_forces(), "stress": atoms.get_stress()})
    return compare(results[1], results[0])


def loss_of(model: Potential, graph: Graph) -> Tensor:
    """A loss on energies and forces, whose labels are zero."""
    outputs = evaluate(model, graph, training=True)
    assert outputs.forces is not None
    return (outputs.energy / graph.num_graphs).square().mean().sqrt() + outputs.forces.square().mean()


def check_training(name: str, setting: Any) -> Row:
    """Gradients of a loss with respect to all weights, together."""
    exact = make_model(name, dry=setting.dry).requires_grad_(True)
    graph = graph_of(exact, [crystal(1, seed) for seed in range(2)])
    results = []
    for device, dtype in ((torch.device("cpu"), torch.float64), (setting.device, torch.float32)):
        model = deepcopy(exact).to(device=device, dtype=dtype).train()
        loss = loss_of(model, graph.to(device=device, dtype=dtype))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        flat = torch.cat([gradient.flatten() for gradient in gradients]).cpu().double().numpy()
        results.append({"loss": loss.detach().cpu().double().numpy(), "gradient": flat})
    return compare(results[1], results[0])


def models(setting: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Numbers of both models."""
    for name in ("chgnet", "allscaip-sm"):
        yield f"{name}, calculator", lambda name=name: check_calculator(name, setting)
        yield f"{name}, training", lambda name=name: check_training(name, setting)
