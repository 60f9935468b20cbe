"""The loss function, with residuals in units that make the terms comparable.

    loss = sum_p weight_p * sum penalty(residual_p) / count_p       p: energy, forces, stress, magmoms

Residuals: energy eV/atom, forces eV/A (each component), stress GPa (each of nine), magmoms mu_B. `count_p` is the mean
number of labelled values of a step: those of all training structures, divided by the number of steps of an epoch. Each
label therefore has the same weight in every batch, and the mean gradient of an epoch is that of the whole data set,
whatever the batches and however a step is divided into ranks and micro-batches. Missing labels are not counted. With
several data sets, penalties and numbers of labels are multiplied by the weight of their set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uip.config import suggestion
from uip.data.samples import Sample, Targets
from uip.graph.batch import Graph, Outputs
from uip.units import EV_PER_A3_TO_GPA

LOSS_TERMS = ("energy", "forces", "stress", "magmoms")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; the defaults are those of the published CHGNet."""

    energy: float = 1.0
    """Weight of the energy per atom."""
    forces: float = 1.0
    """Weight of the forces."""
    stress: float = 0.1
    """Weight of the stress."""
    magmoms: float = 0.1
    """Weight of the magnetic moments."""
    kind: str = "huber"
    """Penalty of a residual: "huber", "mae" or "mse"."""
    delta: float = 0.1
    """Threshold of the Huber loss between quadratic and linear, in eV/atom, eV/A, GPa, mu_B."""
    final: dict[str, float] = field(default_factory=dict)
    """Weights at the end of the run, for terms whose weight changes; it changes linearly from start to end."""

    def __post_init__(self) -> None:
        if self.kind not in PENALTIES:
            raise ValueError(f"'loss.kind' must be one of {', '.join(PENALTIES)}, got {self.kind!r}")
        if self.kind == "huber" and self.delta <= 0:
            raise ValueError(f"'loss.delta' must be positive, got {self.delta}")
        for name in self.final:
            if name not in LOSS_TERMS:
                raise ValueError(f"unknown key 'loss.final.{name}'{suggestion(name, LOSS_TERMS)}")
        starts, ends = self.weights(0.0), self.weights(1.0)
        if min((*starts.values(), *ends.values())) < 0 or not any(starts.values()):
            raise ValueError(f"loss weights must not be negative, nor all zero, got {starts}")

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each term at `progress`, from 0 to 1."""
        start = {name: float(getattr(self, name)) for name in LOSS_TERMS}
        return {name: weight + progress * (self.final.get(name, weight) - weight) for name, weight in start.items()}

    @property
    def needs_forces(self) -> bool:
        """Whether forces or stress have a weight at any time; if not, no second derivatives are needed."""
        return any(self.weights(progress)[name] > 0 for progress in (0.0, 1.0) for name in ("forces", "stress"))


PENALTIES = ("huber", "mae", "mse")


def penalty(residual: Tensor, config: LossConfig) -> Tensor:
    """Sum over a flat residual, ()."""
    if config.kind == "mae":
        return residual.abs().sum()
    if config.kind == "mse":
        return residual.square().sum()
    # d |r| - d^2 / 2 beyond d, r^2 / 2 within
    return torch.nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="sum", delta=config.delta)


def count_labels(targets: Targets) -> Tensor:
    """Number of labelled values of each of `LOSS_TERMS`, (4,) float64, to be summed over ranks."""
    counts = [torch.isfinite(getattr(targets, name)).sum() for name in LOSS_TERMS]
    return torch.stack(counts).to(torch.float64)


def residuals(outputs: Outputs, targets: Targets, graph: Graph) -> dict[str, Tensor]:
    """Prediction minus label, flat, in units of the loss, of labelled values; by property."""
    labelled = torch.isfinite(targets.energy)
    atoms = graph.atoms_per_graph[labelled]
    # labels are float64, and so are energies of models that add reference energies in float64 (AllScAIP)
    energy = targets.energy[labelled].to(outputs.energy.dtype)
    result = {"energy": (outputs.energy[labelled] - energy) / atoms}
    if outputs.forces is not None:
        known = torch.isfinite(targets.forces)
        result["forces"] = outputs.forces[known] - targets.forces[known]
    if outputs.virial is not None:
        # not `outputs.stress`: its NaN for graphs without volume would give NaN gradients for all graphs
        known = torch.isfinite(targets.stress).flatten(1).all(1)
        stress = -outputs.virial[known] / graph.volume[known].view(-1, 1, 1)
        result["stress"] = (stress - targets.stress[known]).flatten() * EV_PER_A3_TO_GPA
    if outputs.magmoms is not None:
        known = torch.isfinite(targets.magmoms)
        result["magmoms"] = outputs.magmoms[known] - targets.magmoms[known]
    return result


def penalties(parts: dict[str, Tensor], config: LossConfig) -> Tensor:
    """Sums of penalties by property, (4,); zero for properties that the model does not predict."""
    none = parts["energy"].new_zeros(())
    return torch.stack([penalty(parts[name], config) if name in parts else none for name in LOSS_TERMS])


def set_penalties(outputs: Outputs, sample: Sample, config: LossConfig, weights: Sequence[float]) -> Tensor:
    """`penalties` of a batch, (4,), those of each data set times its weight."""
    each = [penalties(residuals(outputs, sample.targets_of(k), sample.graph), config) for k in range(len(weights))]
    return torch.stack([weight * part for weight, part in zip(weights, each, strict=True)]).sum(0)


def count_by_set(sample: Sample, num_sets: int) -> Tensor:
    """`count_labels` of each data set, (num_sets, 4)."""
    return torch.stack([count_labels(sample.targets_of(k)) for k in range(num_sets)])


def scales(weights: dict[str, float], counts: Tensor) -> Tensor:
    """Factors of the penalties in the loss, (4,) float64: weight_p / count_p, zero without labels.

    `counts`: labels of a step, (4,).
    """
    weight = torch.tensor([weights[name] for name in LOSS_TERMS], dtype=torch.float64)
    return weight / torch.where(counts > 0, counts, torch.inf).cpu()


def absolute_errors(parts: dict[str, Tensor], targets: Targets) -> Tensor:
    """Sums of |residual| by property, for the MAE over several batches; see `error_sums`."""
    return error_sums(parts, targets, torch.abs)


def squared_errors(parts: dict[str, Tensor], targets: Targets) -> Tensor:
    """Sums of residual^2 by property, for the RMSE over several batches; see `error_sums`."""
    return error_sums(parts, targets, torch.square)


def error_sums(parts: dict[str, Tensor], targets: Targets, size: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums of `size` of each residual by property, (4,) float64 on the device of the model.

    NaN for properties that have labels, but that the model does not predict.
    """
    nothing = torch.where(count_labels(targets) > 0, torch.nan, 0.0)
    sums = [
        size(parts[name].detach()).sum() if name in parts else none
        for name, none in zip(LOSS_TERMS, nothing, strict=True)
    ]
    return torch.stack([value.double() for value in sums])
