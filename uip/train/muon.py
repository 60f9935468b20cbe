"""Muon for the matrices of linear layers, AdamW for all other weights, as one optimiser.

Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum M = U S V^T of a matrix
by about U V^T, so that all directions of a matrix learn at the same rate. Its steps are scaled to the size of those of
AdamW (J. Liu et al., arXiv:2502.16982), so both parts have the same learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SMALLEST = 8
"""Matrices with fewer rows or columns, as of outputs, have AdamW."""


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights that have Muon: matrices of linear layers, not embeddings of elements."""
    return {
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and min(layer.weight.shape) >= SMALLEST
    }


class Muon:
    """`torch.optim.Muon` for `matrices` and AdamW for `others`, with the interface of one optimiser."""

    def __init__(
        self, matrices: list[nn.Parameter], others: list[dict[str, Any]], learning_rate: float, weight_decay: float
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=learning_rate))
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:
        assert closure is None
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
