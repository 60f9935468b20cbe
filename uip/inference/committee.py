"""A committee: models with one graph, whose mean is the result and whose spread tells how far to trust it.

    force of atom i      sqrt( < |F_i^k - <F_i>|^2 > )
    virial, component    sqrt( < (W_ab^k - <W_ab>)^2 > ) / N
    energy               sqrt( < (E^k - <E>)^2 > )

< > is the mean over the members k (1 / n, not 1 / (n - 1)): the model deviation of DP-GEN (Zhang et al., Computer
Physics Communications 253, 107206 (2020)) and DeePMD-kit. LAMMPS has the same: lammps_plugin/committee.cpp.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from uip.graph.batch import Graph, Outputs
from uip.graph.neighbors import NeighborList
from uip.inference.evaluator import Evaluator, load_evaluator
from uip.inference.uncertainty import UNCERTAINTIES
from uip.models.potential import VECTORS, Potential
from uip.schema import Floats, Integers

Source = str | Path | Potential

SHARED = ("cutoff", "bond_cutoff", "soft", "precision", "device", "program_outputs")
"""Properties of a potential that decide its graph and its outputs: the same of all members."""
OF_ONE_MODEL = (VECTORS, "energy_uncertainty", "node_uncertainty")
"""Outputs of calibrated members that a committee does not have: its own measure is the deviation."""


@dataclass(frozen=True)
class Committee:
    """Evaluators that read the same graph; used like one `Evaluator`."""

    members: tuple[Evaluator, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(
                f"a committee needs at least two models, got {len(self.members)}; name more, or give one model alone"
            )
        for member in self.members[1:]:
            check_shared(self.members[0], member)
            check_heads(self.members[0], member)
        check_different(self.members)

    @property
    def name(self) -> str:
        """Names of the members."""
        return " + ".join(member.name for member in self.members)

    @property
    def title(self) -> str:
        """Names and precision, for tables."""
        return f"committee of {len(self.members)}: {self.name}, {self.members[0].potential.precision}"

    @property
    def properties(self) -> tuple[str, ...]:
        """Names in ASE of all outputs but energies."""
        own = self.members[0].properties
        deviations = (name for name in DEVIATIONS if "force" not in name or "forces" in own)
        return (*(name for name in own if name not in UNCERTAINTIES), *deviations)

    def __call__(self, graph: Graph) -> Outputs:
        """Means and deviations of all outputs of a batch; raises as `Evaluator`."""
        return combined([member(graph) for member in self.members], graph)

    def neighbor_list(self, *, skin: float = 0.0) -> NeighborList:
        """What builds the graphs that all members read; `skin` in A."""
        return self.members[0].neighbor_list(skin=skin)

    def check_elements(self, atomic_numbers: Integers) -> None:
        """Raises ValueError for an element that a member does not know."""
        for member in self.members:
            member.check_elements(atomic_numbers)


def check_shared(first: Evaluator, other: Evaluator) -> None:
    """Raises ValueError for models that cannot share a graph."""
    for name in SHARED:
        values = _shared(first, name), _shared(other, name)
        if values[0] != values[1] and name == "program_outputs":
            raise ValueError(
                f"the models of a committee must have the same outputs, but '{first.name}' and '{other.name}' differ "
                f"in {', '.join(sorted(set(values[0]) ^ set(values[1])))}; train all with the same labels and readout"
            )
        if values[0] != values[1]:
            raise ValueError(
                f"the models of a committee share one graph and must have the same {name}, but it is {values[0]} of "
                f"'{first.name}' and {values[1]} of '{other.name}'; use models of one architecture"
            )


def check_heads(first: Evaluator, other: Evaluator) -> None:
    """Raises ValueError for different levels of theory, whose difference is not an uncertainty."""
    heads = first.potential.head, other.potential.head
    if heads[0] != heads[1]:
        raise ValueError(
            f"the models of a committee must have the same head, but '{first.name}' has {heads[0] or 'none'!r} and "
            f"'{other.name}' has {heads[1] or 'none'!r}; take models of one level of theory"
        )


def check_different(members: Sequence[Evaluator]) -> None:
    """Raises ValueError if two members are the same weights: their deviation of zero would pass for certainty."""
    for number, member in enumerate(members):
        for other in members[:number]:
            if _same_weights(member.potential, other.potential):
                raise ValueError(
                    f"the models of a committee must differ, but '{other.name}' is there twice; their deviation would "
                    "be zero everywhere"
                )


def _same_weights(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if not (isinstance(one, Potential) and isinstance(other, Potential)):
        return False
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _shared(member: Evaluator, name: str) -> Any:
    value = getattr(member.potential, name)
    return value if name != "program_outputs" else tuple(output for output in value if output not in OF_ONE_MODEL)


def load_committee(sources: Sequence[Source], **arguments: Any) -> Committee:
    """The models `sources` as a committee; arguments and errors as of `load_evaluator`.

    Raises:
        ValueError: fewer than two models, models that cannot share a graph, or a file with the content of another.
    """
    files = [Path(source) for source in sources if not isinstance(source, Potential) and Path(source).is_file()]
    for number, file in enumerate(files):
        for other in files[:number]:
            if filecmp.cmp(file, other, shallow=False):
                raise ValueError(
                    f"the models of a committee must differ, but '{file}' has the content of '{other}'; their "
                    "deviation would be zero everywhere"
                )
    return Committee(tuple(load_evaluator(source, **arguments) for source in sources))


def load_evaluators(sources: Sequence[Source], **arguments: Any) -> Evaluator | Committee:
    """One model alone, several as a committee."""
    return load_evaluator(sources[0], **arguments) if len(sources) == 1 else load_committee(sources, **arguments)


def combined(outputs: Sequence[Outputs], graph: Graph) -> Outputs:
    """Means of the outputs of members, with deviations; of one member, its outputs."""
    if len(outputs) == 1:
        return outputs[0]
    names = [field.name for field in fields(Outputs) if field.name not in OF_ONE_MODEL]
    values = {name: [getattr(output, name) for output in outputs] for name in names}
    stacked = {name: torch.stack(each) for name, each in values.items() if each[0] is not None}
    none: dict[str, Any] = dict.fromkeys(OF_ONE_MODEL)
    mean = replace(outputs[0], **none, **{name: each.mean(0) for name, each in stacked.items()})
    deviations = {"energy_deviation": stacked["energy"].std(0, correction=0)}
    if "forces" in stacked:
        deviations["force_deviation"] = stacked["forces"].var(0, correction=0).sum(-1).sqrt()
    if "virial" in stacked:
        deviations["virial_deviation"] = stacked["virial"].std(0, correction=0) / _atoms_of(graph, mean.energy)
    return replace(mean, **deviations)


def _atoms_of(graph: Graph, energy: Tensor) -> Tensor:
    """Number of atoms of each graph, (B, 1, 1)."""
    counts = torch.bincount(graph.graph_index, minlength=graph.num_graphs)
    return counts.view(-1, 1, 1).to(energy)


DEVIATIONS = (
    "energy_deviation",
    "force_deviation",
    "max_force_deviation",
    "mean_force_deviation",
    "min_force_deviation",
)
"""Results of a committee in ASE: eV; eV/A per atom, and its largest, mean and smallest value."""


def deviations(prediction: Mapping[str, NDArray[Any]]) -> dict[str, float | Floats]:
    """`DEVIATIONS` of one structure; nothing of a model alone."""
    found: dict[str, float | Floats] = {}
    if "energy_deviation" in prediction:
        found["energy_deviation"] = float(prediction["energy_deviation"])
    if "force_deviation" in prediction:
        forces = prediction["force_deviation"]
        found |= {
            "force_deviation": forces,
            "max_force_deviation": float(forces.max()),
            "mean_force_deviation": float(forces.mean()),
            "min_force_deviation": float(forces.min()),
        }
    return found
