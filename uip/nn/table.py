"""Functions of one number, the distance or the angle, as tables for kernels in float32 (csrc/message_tables.h)."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from uip.nn.basis import RadialBasis


class Table:
    """A function of one number from 0 to `length` or a little more, with its derivatives at equidistant knots
    (csrc/message_kernels.h).

    Args:
        function: (rows,) to (rows, W), in float64.
        fastest: its highest angular frequency; intervals are at most `PHASE` / fastest long. Polynomials of degree
            5 then miss it by at most 6e-8 of its amplitude, less than float32 does.
    """

    PHASE = 0.375

    def __init__(self, function: Callable[[Tensor], Tensor], length: float, fastest: float) -> None:
        # a power of 2: distances in knots are not rounded a second time, which forces of short, stiff bonds would show
        step = 2.0 ** math.floor(math.log2(self.PHASE / fastest))
        intervals = max(1, math.ceil(length / step))
        self.per_length = 1.0 / step
        x = step * torch.arange(intervals + 1, dtype=torch.float64)
        with torch.enable_grad():
            x.requires_grad_()
            value = function(x)
            slope = derivative(value, x)
            curvature = derivative(slope, x)
        difference = torch.cat([value[1:], value[-1:]]) - value
        self.rows = torch.stack([value, difference, step * slope, step**2 * curvature], dim=1).detach()

    def weights(self, like: Tensor) -> list[Tensor]:
        """What `PackedMessage` takes as inputs."""
        return [self.rows.to(like.dtype).contiguous(), like.new_zeros(0)]


def derivative(y: Tensor, x: Tensor) -> Tensor:
    """dy_k / dx_k, (rows, W), of y (rows, W) that depends on x (rows,) row by row."""
    weight = torch.zeros_like(y, requires_grad=True)
    (weighted,) = torch.autograd.grad(y, x, weight, create_graph=True)
    (result,) = torch.autograd.grad(weighted.sum(), weight, create_graph=True)
    return result


def radial_table(basis: RadialBasis, weight: Tensor, bias: Tensor | None = None) -> Table:
    """Of distances: a linear map (W, n) of radial functions, in float64."""
    exact = deepcopy(basis).double()
    fastest = basis.frequencies.abs().max().item() / basis.cutoff

    def function(distance: Tensor) -> Tensor:
        positive = torch.where(distance > 0.0, distance, 1e-3)  # sin(f r) / r is finite at 0, but cannot be evaluated
        return F.linear(exact(positive), weight, bias)

    return Table(function, basis.cutoff, fastest)
