"""The interface of all models, for readouts, training, export and engines."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from uip.models.card import Coverage, ModelCard
from uip.models.uncertainty import Calibration
from uip.ops.soft_rank import SoftNearest

VECTORS = "uncertainty_vectors"
"""Output of programs of calibrated models."""


class Output(NamedTuple):
    """Outputs of a model; names, shapes and units as in `uip.schema`. None: not predicted."""

    node_energy: Tensor
    """(N,) eV, summing to the total energy."""
    magmoms: Tensor | None = None
    """(N,) mu_B."""
    edge_grad: Tensor | None = None
    """(E, 3) eV/A, predicted by a direct readout."""
    forces: Tensor | None = None
    """(N, 3) eV/A, predicted by a direct readout without edge gradients."""
    features: Tensor | None = None
    """(N, H), inputs of `Potential.last_layer`."""


class Evaluable(Protocol):
    """Properties that models and exported programs have in common."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def head(self) -> str:
        """Level of theory, of one of several heads; empty for others."""

    @property
    def cutoff(self) -> float:
        """A; edges are shorter."""

    @property
    def bond_cutoff(self) -> float | None:
        """A; bonds that form angles are shorter. None: no angles, or bonds are selected by `soft`."""

    @property
    def soft(self) -> SoftNearest | None:
        """Criterion for an edge to be a bond; None: `bond_cutoff`."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers."""

    @property
    def dtype(self) -> torch.dtype:
        """dtype of real tensors."""

    @property
    def precision(self) -> str:
        """ "bfloat16", "float32" or "float64"."""

    @property
    def device(self) -> torch.device: ...

    @property
    def parallel(self) -> bool:
        """Whether one structure can be distributed over several ranks."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input names, as in `uip.schema`, in order."""

    @property
    def program_outputs(self) -> tuple[str, ...]:
        """Names of `uip.schema`, in order."""


class Potential(nn.Module):
    """A function of edge vectors; `forward` takes the tensors named by `inputs` and returns an `Output`.

    Forces and stress are computed from gradients with respect to edge vectors, in `uip.models.readout`.
    """

    name: str
    """The architecture."""
    config: Any
    readouts: tuple[str, ...]
    """Names of the modules that are not shared with other heads (`uip.models.heads`)."""
    head: str = ""
    """Level of theory, of one of several heads."""
    card: ModelCard
    reference_energy: Tensor
    """Energy of each element, eV."""
    calibration: Calibration | None
    """For uncertainties of energies; None: not calibrated."""
    coverage: Coverage | None = None
    """None: not recorded; all that the architecture supports."""
    soft: SoftNearest | None = None
    """Criterion for an edge to be a bond; None: `bond_cutoff`."""
    recompute: bool = False
    """Training: activation checkpointing; store only the input of each layer, recompute the rest in backward passes."""

    activation_budget: float | None = None
    """Inference: bytes that layers may store for the gradient; above it they recompute. None: not supported."""
    bfloat16_products: bool | None = None
    """Inference: products with weights in bfloat16; sums and all other tensors in float32. None: not supported."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Input names of `forward`, as in `uip.schema`."""

    @property
    @abstractmethod
    def plain_outputs(self) -> tuple[str, ...]:
        """Output names of an exported program of a model without calibration, as in `uip.schema`."""

    @property
    def program_outputs(self) -> tuple[str, ...]:
        """Output names of an exported program, as in `uip.schema`."""
        return self.plain_outputs if self.calibration is None else (*self.plain_outputs, VECTORS)

    @property
    @abstractmethod
    def last_layer(self) -> nn.Linear:
        """The layer whose output is the energy of an atom, but for a factor and the reference energy."""

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
        """dtype of real tensors."""
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
        """Whether forces are the negative gradient of the energy."""
        return bool(self.config.readout == "gradient")

    @property
    def parallel(self) -> bool:
        """Whether one structure can be distributed over several ranks."""
        return True

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model was trained for."""
        return self.supported_elements if self.coverage is None else self.coverage.elements

    @property
    def supported_elements(self) -> tuple[int, ...]:
        """Atomic numbers for which the architecture has weights."""
        return tuple(range(1, self.config.num_elements + 1))

    @property
    def needs_positions(self) -> bool:
        """Whether the energy depends on positions not only through edge vectors; such a model also takes `strain`."""
        return "positions" in self.inputs

    @property
    def heads(self) -> dict[str, Potential]:
        """This model as its only head; see `uip.models.heads.Heads`."""
        return {self.head: self}

    def pack(self) -> None:
        """Prepare copies of weights that inference reads, before a program is traced; by default there are none."""

    def settings(self) -> dict[str, object]:
        """The fields of its config, from which the architecture can be rebuilt."""
        return asdict(self.config)
