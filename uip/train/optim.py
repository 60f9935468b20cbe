"""Optimiser, learning-rate schedule, and exponential moving average (EMA) of weights.

rate(step) = learning_rate * (step + 1) / warmup_steps                             during warm-up
           = learning_rate * (final + (1 - final) (1 + cos(pi progress)) / 2)      afterwards, "cosine"
           = learning_rate                                                         "constant"
           = learning_rate * max(plateau_factor^reductions, final)                 "plateau"

The rate is reduced each time the validation loss has not been lower for `plateau_epochs` epochs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from uip.models.heads import Heads, without_head
from uip.models.potential import Potential
from uip.train.muon import Muon, hidden_matrices

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "constant", "plateau")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, learning-rate schedule, EMA."""

    optimizer: str = "adamw"
    """"adamw", or "muon": Muon for the matrices of linear layers and AdamW for other weights."""
    learning_rate: float = 1e-3
    """Learning rate after warm-up."""
    reference_batch: int = 0
    """If set, the learning rate is multiplied by batch_size / reference_batch (FastCHGNet: 3e-4 at 128)."""
    weight_decay: float = 0.0
    """Weight decay of matrices; none for biases, norms, frequencies and embeddings."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """Schedule after warm-up: "cosine", "constant", or "plateau": reduced when the validation loss stays high."""
    final_fraction: float = 0.005
    """Learning rate at the end of the cosine schedule, and smallest one of "plateau", relative to its maximum."""
    plateau_epochs: int = 10
    """"plateau": epochs without a lower validation loss, after which the learning rate is reduced."""
    plateau_factor: float = 0.5
    """"plateau": factor of each reduction."""
    clip: float = 0.0
    """Largest gradient norm (gradient clipping); 0: no limit."""
    ema: float = 0.0
    """Decay of the exponential moving average of weights, which is validated and saved as best.ckpt; 0: no average."""

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"'optim.optimizer' must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.learning_rate <= 0:
            raise ValueError(f"'optim.learning_rate' must be positive, got {self.learning_rate}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"'optim.schedule' must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.plateau_epochs < 1:
            raise ValueError(f"'optim.plateau_epochs' must be at least 1, got {self.plateau_epochs}")
        if not 0.0 < self.plateau_factor < 1.0:
            raise ValueError(f"'optim.plateau_factor' must lie between 0 and 1, got {self.plateau_factor}")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"'optim.ema' must lie in [0, 1[, got {self.ema}")


def learning_rate(config: OptimConfig, step: int, num_steps: int, batch_size: int, reductions: int = 0) -> float:
    """Learning rate of step `step` = 0 .. num_steps - 1, after `reductions` of the schedule "plateau"."""
    rate = config.learning_rate * (batch_size / config.reference_batch if config.reference_batch else 1.0)
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return rate
    if config.schedule == "plateau":
        return rate * max(config.plateau_factor**reductions, config.final_fraction)
    progress = min((step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1), 1.0)
    return rate * (config.final_fraction + (1 - config.final_fraction) * (1 + math.cos(math.pi * progress)) / 2)


def is_chosen(name: str, patterns: Iterable[str], heads: Collection[str] = ()) -> bool:
    """Whether the name of a weight matches one of `patterns` (shell style), with its head or without."""
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in {name, without_head(name, heads)})


def select_trainable(model: Potential | Heads, patterns: Iterable[str]) -> list[tuple[str, nn.Parameter]]:
    """Make the parameters trainable whose names match one of `patterns`, as of `is_chosen`, and freeze the others.

    Raises:
        ValueError: a pattern without a match.
    """
    patterns = tuple(patterns)
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(is_chosen(name, [pattern], model.heads) for name in names):
            parts = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise ValueError(
                f"'model.trainable' must name parts of the model, but {pattern!r} matches none of: {parts}"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_chosen(name, patterns, model.heads))
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def make_optimizer(
    model: nn.Module, parameters: list[tuple[str, nn.Parameter]], config: OptimConfig
) -> torch.optim.AdamW | Muon:
    """The optimiser of `parameters`, those of `model` that are trained, with weight decay for matrices only."""
    hidden = hidden_matrices(model) if config.optimizer == "muon" else set()
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in parameters if name not in hidden and _decays(name, p) == decays],
            "weight_decay": w,
        }
        for decays, w in ((True, config.weight_decay), (False, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    matrices = [p for name, p in parameters if name in hidden]
    return Muon(matrices, groups, config.learning_rate, config.weight_decay)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and "embedding" not in name


class EMA:
    """The exponential moving average of a model's weights.

    The decay increases from 0.1 to its final value with the number of updates, so that the random initial weights
    have little influence.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in model.named_parameters():
            self.weights[name].lerp_(value, 1.0 - decay)

    def state(self) -> dict[str, object]:
        """State for a checkpoint."""
        return {"updates": self.updates, "weights": self.weights}

    def load(self, state: Mapping[str, object]) -> None:
        """Restore the state from a checkpoint."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        weights: Mapping[str, Tensor] = state["weights"]  # type: ignore[assignment]
        for name, value in weights.items():
            self.weights[name].copy_(value)
