"""One structure with its labels, or a batch of them: what a model reads and what it is trained to predict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from uip.graph.batch import Graph


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a batch should be predicted as, shapes and units as in `uip.schema`; NaN where there is no label."""

    energy: Tensor
    forces: Tensor
    stress: Tensor
    magmoms: Tensor

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Targets:
        """A copy on `device` as `dtype`."""
        return Targets(**{name: value.to(device=device, dtype=dtype) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Sample:
    """One structure, or a batch of them: what a model reads and what it should say."""

    graph: Graph
    targets: Targets
    info: dict[str, Any] = field(default_factory=dict)
    """What else is known of one structure: material, group, ... Splits ask for it, models never."""

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Sample:
        """A copy on `device`, its real tensors as `dtype`; from pinned memory without waiting."""
        options = {"device": device, "dtype": dtype}
        return Sample(self.graph.to(**options), self.targets.to(**options), self.info)  # type: ignore[arg-type]

    def pin(self) -> Sample:
        """A copy in memory that a GPU reads by itself."""
        graph = Graph(**{name: value.pin_memory() for name, value in self.graph.tensors().items()})
        return Sample(graph, Targets(**{name: value.pin_memory() for name, value in vars(self.targets).items()}))


def join_targets(targets: Iterable[Targets]) -> Targets:
    """Targets of a batch, in the order of `uip.graph.batch`."""
    parts = list(targets)
    return Targets(**{item.name: torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Targets)})
