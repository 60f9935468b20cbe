"""Errors of a model on a data set, for the log: validation after each epoch, and the test set at the end."""

from __future__ import annotations

from functools import partial

import torch

from uip.checkpoint import parse_dtype
from uip.data.dataset import Dataset
from uip.data.prefetch import prefetch
from uip.data.sampler import VALIDATION_COST, assign_to_ranks, cost_model, micro_batches
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.loss import LOSS_TERMS, absolute_errors, count_labels, penalties, residuals, scales, squared_errors
from uip.train.metrics import Line
from uip.train.step import mean_errors


def validate(config: TrainConfig, model: Potential, data: Dataset, ranks: Ranks) -> Line:
    """Loss, with the final weights of its terms, MAE and RMSE of each property over `data`."""
    device, real = model.reference_energy.device, parse_dtype(config.run.dtype)
    sums = torch.zeros(4, len(LOSS_TERMS), dtype=torch.float64)  # penalties, absolute and squared errors, labels
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
    penalty, absolute, squared, counts = ranks.sum(sums)
    value = (scales(config.loss.weights(1.0), counts) * penalty).sum()
    roots = mean_errors((squared * counts).sqrt(), counts)  # sqrt(squared / counts) * counts
    rmse = {f"{name}_rmse": error for name, error in roots.items()}
    return {"kind": "validation", "loss": float(value), **mean_errors(absolute, counts), **rmse}


def format_errors(errors: Line) -> str:
    """Errors of `validate` as text."""
    units = {"energy": "meV/atom", "forces": "meV/A", "stress": "GPa", "magmoms": "mu_B"}
    return ", ".join(f"{name} {errors[name]:.4g} {unit}" for name, unit in units.items() if errors[name] is not None)
