"""LoRA (Hu et al., arXiv:2106.09685): fine-tuning by low-rank changes of the matrices of linear layers.

    W = W_0 + B A        W_0 (out, in): as before the run; B (out, r): zero at first; A (r, in): random at first

Only A and B are trained. The model itself always has the plain matrices W, so its kernels, EMA and checkpoints need to
know nothing. With G = dL/dW, which every backward pass of the model gives, the chain rule is

    dL/dA = B^T G        dL/dB = G A^T
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.train.optim import is_chosen


@dataclass(frozen=True)
class Factors:
    """One matrix: W, W_0, A and B."""

    weight: nn.Parameter
    base: Tensor
    down: nn.Parameter
    up: nn.Parameter


class LowRank:
    """Low-rank changes of `matrices`, by name of the weight, which become trainable.

    Args:
        seed: of A, whose elements have the variance 1 / in.
    """

    def __init__(self, matrices: Mapping[str, nn.Parameter], rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.factors: dict[str, Factors] = {}
        for name, weight in matrices.items():
            rows, columns = weight.shape
            down = torch.randn(rank, columns, generator=generator, dtype=torch.float64) / columns**0.5
            up = torch.zeros(rows, rank)
            pair = [nn.Parameter(factor.to(device=weight.device, dtype=weight.dtype)) for factor in (down, up)]
            weight.requires_grad_()
            self.factors[name] = Factors(weight, weight.detach().clone(), *pair)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All A and B with their names."""
        pairs = [((f"{name}.lora_a", f.down), (f"{name}.lora_b", f.up)) for name, f in self.factors.items()]
        return [item for pair in pairs for item in pair]

    @torch.no_grad()
    def pull_gradients(self) -> None:
        """Turn the gradients of the matrices into those of A and B."""
        for f in self.factors.values():
            grad, f.weight.grad = f.weight.grad, None
            f.down.grad = None if grad is None else f.up.mT @ grad
            f.up.grad = None if grad is None else grad @ f.down.mT

    @torch.no_grad()
    def write_weights(self) -> None:
        """Set the matrices of the model from A and B."""
        for f in self.factors.values():
            f.weight.copy_(torch.addmm(f.base, f.up, f.down))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """State for a checkpoint; the model is saved with its plain matrices."""
        names = ("base", "down", "up")
        return {name: {key: getattr(f, key).detach() for key in names} for name, f in self.factors.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        for name, f in self.factors.items():
            for key, value in state[name].items():
                getattr(f, key).copy_(value)


def low_rank_matrices(
    model: Potential | Heads, patterns: Iterable[str], others: Iterable[str], rank: int
) -> dict[str, nn.Parameter]:
    """Matrices of the linear layers whose names match one of `patterns`, and which are smaller as A and B.

    Args:
        others: patterns of weights that are trained as they are.

    Raises:
        ValueError: a pattern without a match, or no matrix is left.
    """
    patterns, others = tuple(patterns), tuple(others)
    weights = dict(model.named_parameters())
    layers = {name: weights[f"{name}.weight"] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for pattern in patterns:
        if not any(is_chosen(name, [pattern], model.heads) for name in layers):
            raise ValueError(
                f"'model.lora_layers' must name linear layers, but {pattern!r} matches none of: {', '.join(layers)}"
            )
    chosen = {
        f"{name}.weight": weight
        for name, weight in layers.items()
        if is_chosen(name, patterns, model.heads) and not is_chosen(f"{name}.weight", others, model.heads)
    }
    smaller = {name: weight for name, weight in chosen.items() if rank * sum(weight.shape) < weight.numel()}
    if not smaller:
        sizes = ", ".join(f"{name} {tuple(weight.shape)}" for name, weight in chosen.items())
        raise ValueError(
            f"'model.lora_layers' must name matrices with more numbers than two factors of rank {rank}, got "
            f"{sizes or 'only layers that model.trainable names'}; lower 'model.lora_rank', or leave it out"
        )
    return smaller
