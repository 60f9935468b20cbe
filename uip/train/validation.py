"""Errors of a model on a data set, for the log: validation after each epoch, and the test set at the end."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from uip.checkpoint import parse_dtype
from uip.data.dataset import Dataset
from uip.data.prefetch import prefetch
from uip.data.sampler import VALIDATION_COST, assign_to_ranks, cost_model
from uip.data.samples import Targets
from uip.graph.batch import Graph, Outputs
from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.heads import head_of, portions
from uip.train.loss import LOSS_TERMS, absolute_errors, count_labels, penalties, residuals, scales, squared_errors
from uip.train.metrics import Line
from uip.train.step import SCALES, mean_errors

BY_ELEMENT = ("forces", "magmoms")
"""Properties of atoms, whose errors are also given element by element."""


def validate(config: TrainConfig, model: Potential | Heads, data: Dataset, ranks: Ranks) -> Line:
    """Loss, with the final weights of its terms, MAE and RMSE of each property over `data`, and MAE by element and, if
    there are several, by data set and by head."""
    device, real = model.device, parse_dtype(config.run.dtype)
    names = list(config.data.by_name)
    # of each data set: penalties, absolute and squared errors, labels
    sums = torch.zeros(len(names), 4, len(LOSS_TERMS), dtype=torch.float64)
    elements = torch.zeros(len(BY_ELEMENT), 2, len(chemical_symbols), dtype=torch.float64)
    costs = cost_model(model.name)(data)
    mine = assign_to_ranks(costs, ranks.size)[ranks.rank]
    parts = portions(config, data, mine, costs, config.data.max_cost or VALIDATION_COST)
    for joined in prefetch((partial(data.batch, part) for part in parts), config.data.workers):
        sample = joined.to(device=device, dtype=real)
        outputs = evaluate(head_of(config, model, joined), sample.graph, forces=config.loss.needs_forces)
        # structures without a number belong to the main set
        for number in range(len(names) if sample.sets is not None else 1):
            sums[number] += error_table(config, outputs, sample.targets_of(number), sample.graph)
        elements += element_sums(outputs, sample.targets, sample.graph)
    by_set = ranks.sum(sums)
    weights = torch.tensor(config.data.weights, dtype=torch.float64)
    penalty, _, _, counts = torch.einsum("s,stp->tp", weights, by_set)
    value = (scales(config.loss.weights(1.0), counts) * penalty).sum()
    errors = {**means(by_set.sum(0)), **element_errors(ranks.sum(elements))}
    if len(names) > 1 and len(data):
        errors |= grouped_errors("set", {name: means(table) for name, table in zip(names, by_set, strict=True)})
    if config.model.heads and len(data):
        heads = np.array(config.head_of_set)
        errors |= grouped_errors(
            "head", {head: means(by_set[torch.from_numpy(heads == head)].sum(0)) for head in config.model.heads}
        )
    return {"kind": "validation", "loss": float(value), **errors}


def error_table(config: TrainConfig, outputs: Outputs, targets: Targets, graph: Graph) -> Tensor:
    """Sums of penalties, of absolute and of squared errors, and numbers of labels, (4, 4) float64 on the CPU."""
    errors = residuals(outputs, targets, graph)
    penalty = penalties(errors, config.loss).detach().double()
    return torch.stack(
        [penalty, absolute_errors(errors, targets), squared_errors(errors, targets), count_labels(targets)]
    ).cpu()


def means(table: Tensor) -> Line:
    """MAE and RMSE of each property from sums of `error_table`."""
    _, absolute, squared, counts = table
    roots = mean_errors((squared * counts).sqrt(), counts)  # sqrt(squared / counts) * counts
    return {**mean_errors(absolute, counts), **{f"{name}_rmse": error for name, error in roots.items()}}


def grouped_errors(kind: str, errors: dict[str, Line]) -> Line:
    """MAE by data set or by head, of properties with labels: "energy_by_set", ..."""
    groups = {
        f"{term}_by_{kind}": {name: line[term] for name, line in errors.items() if line[term] is not None}
        for term in LOSS_TERMS
    }
    return {name: values for name, values in groups.items() if values}


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
    """Errors of `validate` as text, of each head, or else of each data set, if there are several."""
    kind = "head" if any(name.endswith("_by_head") for name in errors) else "set"
    names = list(dict.fromkeys(name for term in LOSS_TERMS for name in errors.get(f"{term}_by_{kind}", ())))
    if not names:
        return _listed(errors)
    lines = {name: {term: errors.get(f"{term}_by_{kind}", {}).get(name) for term in LOSS_TERMS} for name in names}
    return "; ".join(f"{name}: {_listed(line)}" for name, line in lines.items())


def _listed(errors: Line) -> str:
    units = {"energy": "meV/atom", "forces": "meV/A", "stress": "GPa", "magmoms": "mu_B"}
    return ", ".join(f"{name} {errors[name]:.4g} {unit}" for name, unit in units.items() if errors[name] is not None)
