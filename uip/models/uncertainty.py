"""Uncertainty of energies from the features of the last layer: LLPR (Bigi, Chong, Ceriotti, Grasselli, "A
prediction rigidity formalism for low-cost uncertainties in trained neural networks" (2024)).

The energy of atom i is linear in the features f_i (H,) that enter the last layer. With F = sum_i f_i over the N atoms
of a structure, C the mean over structures of (F / N) (F / N)^T, s^2 a regularisation and alpha a factor,

    sigma^2 = alpha^2 F^T (C + s^2)^-1 F = |sum_i g_i|^2,       g_i = P^T f_i,       P P^T = alpha^2 (C + s^2)^-1

The g_i of any atoms may be added, on any number of ranks; the length of the sum is the uncertainty of the sum of their
energies. C, s and alpha are found by `uip.inference.calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class CalibrationRecord:
    """How a calibration was made, and how good it is on the structures held out."""

    structures: int
    """That made the covariance C."""
    held_out: int
    """That made the factor alpha."""
    factor: float
    """alpha, eV/atom."""
    regularisation: float
    """s^2, in units of the mean eigenvalue of C."""
    spearman: float
    slope: float
    miscalibration: float
    """These three: `uip.inference.reliability.Reliability`."""


class Calibration(nn.Module):
    """Features of the last layer (N, H) to uncertainty vectors g_i (N, H), eV."""

    projection: Tensor

    def __init__(self, projection: Tensor, record: CalibrationRecord) -> None:
        """`projection` (H, H): P."""
        super().__init__()
        # no part of the weights: those of a calibrated model and of the model alone are the same
        self.register_buffer("projection", projection, persistent=False)
        self.record = record

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.projection
