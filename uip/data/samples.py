"""A structure with its labels, or a batch of them: inputs of a model and training targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
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
    sets: Tensor | None = None
    """Number of the data set of each structure, (B,) int64; None: there is one data set."""

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> Sample:
        """A copy on `device`, its real tensors as `dtype`; `non_blocking`: from pinned memory, without waiting."""
        options = {"device": device, "dtype": dtype, "non_blocking": non_blocking}
        sets = None if self.sets is None else self.sets.to(device=device, non_blocking=non_blocking)
        return replace(self, graph=self.graph.to(**options), targets=self.targets.to(**options), sets=sets)  # type: ignore[arg-type]

    def pin(self) -> Sample:
        """A copy in pinned memory."""
        graph = Graph(**{name: value.pin_memory() for name, value in self.graph.tensors().items()})
        targets = Targets(**{name: value.pin_memory() for name, value in vars(self.targets).items()})
        return replace(self, graph=graph, targets=targets, sets=None if self.sets is None else self.sets.pin_memory())

    def targets_of(self, number: int) -> Targets:
        """Targets with the labels of one data set; NaN for structures of others."""
        if self.sets is None:
            return self.targets
        structures = self.sets == number
        atoms = structures.index_select(0, self.graph.graph_index)
        chosen = {"energy": structures, "forces": atoms[:, None], "stress": structures[:, None, None], "magmoms": atoms}
        return Targets(**{name: getattr(self.targets, name).where(mask, torch.nan) for name, mask in chosen.items()})


def join_targets(targets: Iterable[Targets]) -> Targets:
    """Targets of a batch, in the order of `uip.graph.batch`."""
    parts = list(targets)
    return Targets(**{item.name: torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Targets)})
