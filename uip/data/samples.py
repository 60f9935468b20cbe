"""A structure with its labels, or a batch of them: inputs of a model and training targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from uip.graph.batch import Graph


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Labels of a batch; shapes and units as in `uip.schema`; NaN: no label."""

    energy: Tensor
    forces: Tensor
    stress: Tensor
    magmoms: Tensor

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> Targets:
        """A copy on `device` as `dtype`; energies stay float64: in float32, -200,000 eV has an error of 0.01 eV."""
        return Targets(
            **{
                name: value.to(device=device, dtype=None if name == "energy" else dtype, non_blocking=non_blocking)
                for name, value in vars(self).items()
            }
        )


@dataclass(frozen=True)
class Sample:
    """One structure, or a batch: graph and labels."""

    graph: Graph
    targets: Targets
    info: dict[str, Any] = field(default_factory=dict)
    """`atoms.info` of one structure: material, group, ...; used for splits."""

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> Sample:
        """A copy on `device`, its real tensors as `dtype`; `non_blocking`: from pinned memory, without waiting."""
        options = {"device": device, "dtype": dtype, "non_blocking": non_blocking}
        return Sample(self.graph.to(**options), self.targets.to(**options), self.info)  # type: ignore[arg-type]

    def pin(self) -> Sample:
        """A copy in pinned memory."""
        graph = Graph(**{name: value.pin_memory() for name, value in self.graph.tensors().items()})
        return Sample(graph, Targets(**{name: value.pin_memory() for name, value in vars(self.targets).items()}))


def join_targets(targets: Iterable[Targets]) -> Targets:
    """Targets of a batch, in the order of `uip.graph.batch`."""
    parts = list(targets)
    return Targets(**{item.name: torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Targets)})
