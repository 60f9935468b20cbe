"""One step of the optimiser: gradient of the loss, checks, new weights. Called by `uip.train.loop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from uip.checkpoint import parse_dtype
from uip.data.dataset import Dataset
from uip.data.sampler import epoch_batches
from uip.data.samples import Sample
from uip.models.readout import evaluate
from uip.schema import Floats
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum
from uip.train.heads import head_of
from uip.train.loss import LOSS_TERMS, absolute_errors, count_by_set, residuals, scales, set_penalties
from uip.train.metrics import Line
from uip.train.optim import learning_rate
from uip.train.setup import write_structures
from uip.train.state import State

SCALES = {"energy": 1e3, "forces": 1e3, "stress": 1.0, "magmoms": 1.0}
"""Factors from units of the loss to units of the log: meV/atom, meV/A, GPa, mu_B."""


@dataclass(frozen=True)
class Plan:
    """What each step needs to know of the whole run."""

    num_steps: int
    labels: Tensor
    """Mean number of labelled values of a step, each with the weight of its data set, for each of `LOSS_TERMS`, (4,)
    float64."""

    @staticmethod
    def of(config: TrainConfig, data: Dataset, costs: Floats) -> Plan:
        """The plan for the training structures `data`."""
        choice, run = config.data, config.run
        per_epoch = len(epoch_batches(costs, choice.batch_size, run.seed, 0, choice.balance_for))
        sets = [data.of_set(number) for number in range(len(choice.weights))]
        counts = [[part.num_labels(name) for name in LOSS_TERMS] for part in sets]
        labels = torch.tensor(choice.weights, dtype=torch.float64) @ torch.tensor(counts, dtype=torch.float64)
        return Plan(run.epochs * per_epoch, labels / per_epoch)


def gradient_step(config: TrainConfig, state: State, samples: list[Sample], plan: Plan, gradients: GradientSum) -> Line:
    """One step of the optimiser on this rank's part of the batch; returns its line of the log."""
    ranks = gradients.ranks
    counts, summary = add_gradients(config, state, samples, plan, gradients)
    if state.low_rank is not None:
        state.low_rank.pull_gradients()
    gradients.finish()
    norm = nn.utils.clip_grad_norm_(gradients.parameters, config.optim.clip or float("inf"))
    # a GPU works ahead up to here, where its numbers are waited for
    value, *sums, size = torch.cat([ranks.sum(summary), norm.double().view(1)]).tolist()
    check_divergence(config, state, value, size, samples, ranks)
    rate = learning_rate(config.optim, state.step, plan.num_steps, config.data.batch_size, state.reductions)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    if state.low_rank is not None:
        state.low_rank.write_weights()
    if state.ema is not None:
        state.ema.update(state.model)
    errors = mean_errors(torch.tensor(sums, dtype=torch.float64), counts)
    return {"loss": value, **errors, "gradient": size, "rate": rate}


def add_gradients(
    config: TrainConfig, state: State, samples: list[Sample], plan: Plan, gradients: GradientSum
) -> tuple[Tensor, Tensor]:
    """Set the gradients of the loss of this rank's part of a batch.

    Returns:
        Number of labels of the batch, over all ranks, (4,); and of this rank, (5,) float64: its part of the loss as a
        mean over the labels of this batch, which is logged, and sums of absolute errors.
    """
    device, real = state.model.device, parse_dtype(config.run.dtype)
    of_sets = torch.tensor(config.data.weights, dtype=torch.float64)
    none = torch.zeros(len(of_sets), len(LOSS_TERMS), dtype=torch.float64)
    by_set = gradients.ranks.sum(sum((count_by_set(sample, len(of_sets)) for sample in samples), none))
    weights = config.loss.weights(min(state.step / max(plan.num_steps - 1, 1), 1.0))
    scale, shown = (scales(weights, labels).to(device=device, dtype=real) for labels in (plan.labels, of_sets @ by_set))
    state.optimizer.zero_grad(set_to_none=True)
    summary = torch.zeros(1 + len(LOSS_TERMS), dtype=torch.float64, device=device)
    for number, sample in enumerate(samples):
        moved = sample.to(device=device, non_blocking=True)
        model = head_of(config, state.model, sample)
        outputs = evaluate(model, moved.graph, forces=config.loss.needs_forces, training=True)
        errors = residuals(outputs, moved.targets, moved.graph)
        sums = set_penalties(outputs, moved, config.loss, config.data.weights)
        with gradients.overlap(last=number == len(samples) - 1):
            (scale * sums).sum().backward()
        value = (shown * sums.detach()).sum().double()
        summary += torch.cat([value.view(1), absolute_errors(errors, moved.targets)])
    return by_set.sum(0), summary


def mean_errors(sums: Tensor, counts: Tensor) -> Line:
    """MAE of each property; None without labels or predictions."""
    known = (counts > 0) & torch.isfinite(sums)
    return {name: float(sums[k] / counts[k]) * SCALES[name] if known[k] else None for k, name in enumerate(LOSS_TERMS)}


def check_divergence(
    config: TrainConfig, state: State, value: float, norm: float, samples: list[Sample], ranks: Ranks
) -> None:
    """Raise if the loss has diverged, before the weights are updated. All ranks raise: loss and norm are sums."""
    finite = all(number == number and abs(number) != float("inf") for number in (value, norm))
    jumped = config.run.max_jump > 0 and state.step > 20 and value > config.run.max_jump * state.typical
    if finite and not jumped:
        state.typical = value if state.step == 0 else 0.98 * state.typical + 0.02 * value
        return
    path = Path(config.run.folder) / f"bad_step_rank{ranks.rank}.xyz"
    write_structures(samples, path)
    what = f"jumped to {value:.3g}, {value / state.typical:.0f} times its recent average" if finite else "is not finite"
    raise FloatingPointError(
        f"the loss {what} at step {state.step} (loss {value:g}, gradient norm {norm:g}); the structures of this step "
        f"are in {path}: check labels and distances, or lower 'optim.learning_rate', or set 'optim.clip'"
    )
