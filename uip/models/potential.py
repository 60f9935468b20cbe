"""What all models share: the face that readouts, training, export and engines see."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from uip.models.card import ModelCard
from uip.ops.soft_rank import SoftNearest


class Output(NamedTuple):
    """What a model returns; names, shapes and units as in `uip.schema`. What it does not say is None."""

    node_energy: Tensor
    """(N,) eV, summing to the total energy."""
    magmoms: Tensor | None = None
    """(N,) mu_B."""
    edge_grad: Tensor | None = None
    """(E, 3) eV/A, predicted by a direct readout."""
    forces: Tensor | None = None
    """(N, 3) eV/A, predicted by a direct readout that says nothing of edges."""


class Evaluable(Protocol):
    """What a model and an exported program state of themselves alike."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def cutoff(self) -> float:
        """A; edges are shorter."""

    @property
    def bond_cutoff(self) -> float | None:
        """A; bonds that form angles are shorter. None: no angles, or bonds are chosen by `soft`."""

    @property
    def soft(self) -> SoftNearest | None:
        """What makes an edge a bond; None: `bond_cutoff` does."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers."""

    @property
    def dtype(self) -> torch.dtype:
        """Of real tensors."""

    @property
    def precision(self) -> str:
        """ "bfloat16", "float32" or "float64"."""

    @property
    def device(self) -> torch.device: ...

    @property
    def parallel(self) -> bool:
        """Whether several ranks can share a structure."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of `uip.schema`, in order."""


class Potential(nn.Module):
    """A function of edge vectors; `forward` takes the tensors named by `inputs` and returns an `Output`.

    Forces and stress are gradients with respect to edge vectors and live outside (`uip.models.heads`).
    """

    name: str
    """The architecture."""
    config: Any
    card: ModelCard
    reference_energy: Tensor
    """By element, eV."""
    soft: SoftNearest | None = None
    """What makes an edge a bond; None: `bond_cutoff` does."""
    recompute: bool = False
    """Training: keep only what enters each layer, and compute the rest again in backward passes."""

    activation_budget: float | None = None
    """Inference: how much layers may keep for the gradient, beyond which they compute it again; None: not offered."""
    bfloat16_products: bool | None = None
    """Inference: products of weights in bfloat16; sums, and all tensors outside, in float32. None: not offered."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """What `forward` reads, names of `uip.schema`."""

    @property
    @abstractmethod
    def program_outputs(self) -> tuple[str, ...]:
        """What an exported program returns, names of `uip.schema`."""

    @property
    @abstractmethod
    def cutoff(self) -> float:
        """A; edges are shorter."""

    @property
    def bond_cutoff(self) -> float | None:
        """A; bonds that form angles are shorter."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Of real tensors."""
        return next(self.parameters()).dtype

    @property
    def precision(self) -> str:
        """ "bfloat16", "float32" or "float64"."""
        return "bfloat16" if self.bfloat16_products else str(self.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def conservative(self) -> bool:
        """Whether forces are derivatives of the energy."""
        return bool(self.config.readout == "gradient")

    @property
    def parallel(self) -> bool:
        """Whether one rank can do its part without knowing the whole structure."""
        return True

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        return tuple(range(1, self.config.num_elements + 1))

    @property
    def needs_positions(self) -> bool:
        """Whether the energy depends on positions beyond what edge vectors say; such a model also takes `strain`."""
        return "positions" in self.inputs

    def settings(self) -> dict[str, object]:
        """The fields of its config, from which the architecture is rebuilt."""
        return asdict(self.config)
