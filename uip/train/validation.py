"""Errors of a model on a data set, for the log: validation after each epoch, and the test set at the end."""

from __future__ import annotations

from functools import partial

import torch
from ase.data import chemical_symbols
from torch import Tensor

from uip.checkpoint import parse_dtype
from uip.data.dataset import Dataset
from uip.data.prefetch import prefetch
from uip.data.sampler import VALIDATION_COST, assign_to_ranks, cost_model, micro_batches
from uip.data.samples import Targets
from uip.graph.batch import Graph, Outputs
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.loss import LOSS_TERMS, absolute_errors, count_labels, penalties, residuals, scales, squared_errors
from uip.train.metrics import Line
from uip.train.step import SCALES, mean_errors

BY_ELEMENT = ("forces", "magmoms")
"""Properties of atoms, whose errors are also given element by element."""


def validate(config: TrainConfig, model: Potential, data: Dataset, ranks: Ranks) -> Line:
    """Loss, with the final weights of its terms, MAE and RMSE of each property over `data`, and MAE by element."""
    device, real = model.reference_energy.device, parse_dtype(config.run.dtype)
    sums = torch.zeros(4, len(LOSS_TERMS), dtype=torch.float64)  # penalties, absolute and squared errors, labels
    elements = torch.zeros(len(BY_ELEMENT), 2, len(chemical_symbols), dtype=torch.float64)
    costs = cost_model(model.name)(data)
    mine = assign_to_ranks(costs, ranks.size)[ranks.rank]
    portions = micro_batches(mine, costs, config.data.max_cost or VALIDATION_COST)
    for joined in prefetch((partial(data.batch, part) for part in portions), config.data.workers):
        sample = joined.to(device=device, dtype=real)
        outputs = evaluate(model, sample.graph, forces=config.loss.needs_forces)
        errors = residuals(outputs, sample.targets, sample.graph)
        penalty = penalties(errors, config.loss).detach().double()
        parts = (penalty, absolute_errors(errors), squared_errors(errors), count_labels(sample.targets))
        sums += torch.stack(parts).cpu()
        elements += element_sums(outputs, sample.targets, sample.graph)
    penalty, absolute, squared, counts = ranks.sum(sums)
    value = (scales(config.loss.weights(1.0), counts) * penalty).sum()
    roots = mean_errors((squared * counts).sqrt(), counts)  # sqrt(squared / counts) * counts
    rmse = {f"{name}_rmse": error for name, error in roots.items()}
    errors = {**mean_errors(absolute, counts), **rmse, **element_errors(ranks.sum(elements))}
    return {"kind": "validation", "loss": float(value), **errors}


def element_sums(outputs: Outputs, targets: Targets, graph: Graph) -> Tensor:
    """Sums of absolute errors and numbers of labels of `BY_ELEMENT`, by atomic number, (2, 2, Z) float64 on the CPU."""
    numbers = graph.atomic_numbers[: graph.num_atoms].cpu()
    sums = torch.zeros(len(BY_ELEMENT), 2, len(chemical_symbols), dtype=torch.float64)
    for k, name in enumerate(BY_ELEMENT):
        predicted = getattr(outputs, name)
        if predicted is None:
            continue
        errors = (predicted - getattr(targets, name)).detach().abs().double().cpu().view(len(numbers), -1)
        known = errors.isfinite()
        sums[k, 0].index_add_(0, numbers, errors.where(known, 0.0).sum(1))
        sums[k, 1].index_add_(0, numbers, known.sum(1).double())
    return sums


def element_errors(sums: Tensor) -> Line:
    """MAE by symbol of the element, of properties with labels, from `element_sums`; units as of `SCALES`."""
    result: Line = {}
    for name, (total, count) in zip(BY_ELEMENT, sums, strict=True):
        errors = {chemical_symbols[z]: float(total[z] / count[z]) * SCALES[name] for z in count.nonzero().view(-1)}
        if errors:
            result[f"{name}_by_element"] = errors
    return result


def format_errors(errors: Line) -> str:
    """Errors of `validate` as text."""
    units = {"energy": "meV/atom", "forces": "meV/A", "stress": "GPa", "magmoms": "mu_B"}
    return ", ".join(f"{name} {errors[name]:.4g} {unit}" for name, unit in units.items() if errors[name] is not None)
