"""Evaluates many structures with one potential, in batches of similar cost.

`Evaluator` is the common interface of eager models and exported programs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from uip.checkpoint import dtype_name, for_inference, load_model, parse_device
from uip.graph.batch import Graph, Outputs, batch
from uip.graph.neighbors import NeighborList
from uip.graph.structure import Structure
from uip.inference.fork import survive_fork
from uip.inference.uncertainty import UNCERTAINTIES
from uip.models.heads import one_head
from uip.models.potential import VECTORS, Evaluable, Potential
from uip.models.readout import assemble_outputs, run_energies, run_model
from uip.program.reader import Program, load_program
from uip.schema import FIELDS

PROGRAM_SUFFIXES = (".pt2", ".pt")

MAX_COST = 20_000
"""Atoms + undirected edges + angles of one batch: about 0.3 GB in float32."""


@dataclass(frozen=True)
class Evaluator:
    """A potential ready to be called with a `Graph`."""

    potential: Evaluable
    """A model in this process, or an exported program."""
    run: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor | None]]
    """From a superset of the potential's inputs to its outputs, by name of `uip.schema`: energies of atoms and
    gradients, or forces."""
    forces: bool = True
    """False: `run` gives energies and magnetic moments alone."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    """Held while the potential runs."""

    @property
    def name(self) -> str:
        """Of the potential."""
        return self.potential.card.name

    @property
    def members(self) -> tuple[Evaluator, ...]:
        """Itself, alone; see `uip.inference.committee`."""
        return (self,)

    @property
    def title(self) -> str:
        """Name and precision, for tables."""
        return f"{self.potential.card.name}, {self.potential.precision}"

    @property
    def properties(self) -> tuple[str, ...]:
        """Names in ASE of all outputs but energies."""
        outputs = self.potential.program_outputs
        magmoms = ("magmoms", "magmom") if "magmoms" in outputs else ()
        others = (*magmoms, *(UNCERTAINTIES if VECTORS in outputs else ()))
        if not self.forces:
            return others
        stress = ("stress", "stresses") if "edge_grad" in outputs else ()
        return ("forces", *stress, *others)

    def __call__(self, graph: Graph) -> Outputs:
        """Energy, forces, virial, stress and magmoms of a batch.

        Raises:
            FloatingPointError: an energy or force is not a finite number.
        """
        survive_fork()
        graph = graph.to(device=self.potential.device, dtype=self.potential.dtype)
        with self.lock, torch.no_grad():  # a gradient readout differentiates within `run`
            outputs = assemble_outputs(graph, self.run(graph.tensors()))
        return check_finite(outputs, self.potential.card.name)

    def neighbor_list(self, *, skin: float = 0.0) -> NeighborList:
        """What builds the graphs that this potential reads; `skin` in A."""
        return NeighborList(self.potential.cutoff, self.potential.bond_cutoff, self.potential.soft, skin=skin)

    def check_elements(self, atomic_numbers: NDArray[np.int64]) -> None:
        """Raises ValueError for an element that the model does not know."""
        unknown = sorted(set(atomic_numbers.tolist()) - set(self.potential.elements))
        if unknown:
            names = ", ".join(chemical_symbols[z] if 0 <= z < len(chemical_symbols) else f"Z = {z}" for z in unknown)
            numbers = self.potential.elements
            whole = range(numbers[0], numbers[-1] + 1)
            known = ", ".join(chemical_symbols[z] for z in numbers)
            if len(numbers) == len(whole) > 2:
                known = f"{chemical_symbols[whole[0]]} to {chemical_symbols[whole[-1]]}"
            raise ValueError(
                f"the structure has {names}, but '{self.potential.card.name}' knows {known}; use another model"
            )


def check_finite(outputs: Outputs, name: str) -> Outputs:
    """Raises FloatingPointError if an energy or force is not a finite number."""
    present = [value for value in (outputs.energy, outputs.forces) if value is not None]
    if not all(bool(torch.isfinite(value).all()) for value in present):
        raise FloatingPointError(
            f"'{name}' gave an energy or force that is not a finite number; "
            "the structure is far outside the training data, look for atoms that are too close"
        )
    return outputs


def load_evaluator(
    source: str | Path | Potential,
    *,
    head: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trusted: str | Path | None = None,
    forces: bool = True,
) -> Evaluator:
    """A published name, a checkpoint, an exported program or a model, as an `Evaluator`.

    Args:
        head: level of theory, of a checkpoint with several heads.
        device: "cpu", "cuda", ... or "auto"; None: the CPU, or the device of a program.
        dtype: "float32", "float64", "bfloat16" (`uip.checkpoint.for_inference`) or torch's own; None: float32, or that
            of a model or a program.
        trusted: see `uip.program.reader.load_program`; only for programs.
        forces: False: energies and magnetic moments alone; not for programs.
    """
    survive_fork()
    device, dtype = None if device is None else str(device), None if dtype is None else dtype_name(dtype)
    if not isinstance(source, Potential) and Path(source).suffix in PROGRAM_SUFFIXES:
        if not forces:
            raise ValueError(
                f"`forces=False` needs a model, got the exported file '{source}', whose program computes energies "
                "together with their gradient; use a published name, a checkpoint or a model"
            )
        program = load_program(source, device_index=_index(device), trusted=trusted)
        return _from_program(program, head, device, dtype)
    if trusted is not None:
        raise ValueError(
            f"`trusted` needs a file written by 'uip export', which can be signed, got {_described(source)}; leave "
            "`trusted` out: reading a checkpoint runs no code"
        )
    if isinstance(source, Potential):
        chosen = one_head(source, head, source.card.name)
        model = for_inference(deepcopy(chosen), dtype=dtype or source.precision, device=device or "cpu")
    else:
        model = load_model(source, head=head, dtype=dtype or "float32", device=device or "cpu")
    return Evaluator(model, partial(run_model if forces else run_energies, model), forces)


def _described(source: str | Path | Potential) -> str:
    return "a model in memory" if isinstance(source, Potential) else f"'{source}'"


def _index(device: str | None) -> int:
    return 0 if device is None else parse_device(device).index or 0


def _from_program(program: Program, head: str | None, device: str | None, dtype: str | None) -> Evaluator:
    """A program keeps the head, the dtype and the kind of device that it was exported for."""
    for what, asked, has in (
        ("head", head, program.head or "a model with one, without a name"),
        ("dtype", dtype, program.precision),
        ("device", device and parse_device(device).type, program.device.type),
    ):
        if asked and asked != has:
            raise ValueError(
                f"`{what}` is {asked}, but '{program.card.name}' was exported for {has}; leave `{what}` out, "
                f"or export again with --{what}"
            )
    return Evaluator(program, program.run)


Prediction = dict[str, NDArray[np.float64]]
"""energy (), forces (N, 3), stress (3, 3) (NaN without three cell vectors), magmoms (N,), node_energy (N,); of a
committee energy_deviation (), force_deviation (N,), virial_deviation (3, 3); of a calibrated model
energy_uncertainty (), node_uncertainty (N,)."""

PREDICTED = (
    *("energy", "forces", "stress", "magmoms", "node_energy"),
    *("energy_deviation", "force_deviation", "virial_deviation"),
    *("energy_uncertainty", "node_uncertainty"),
)
"""Names of `uip.schema` in a `Prediction`."""


def predict(evaluator: Evaluator, structures: Iterable[Structure], *, max_cost: int = MAX_COST) -> Iterator[Prediction]:
    """Predictions of structures, in their order; units as in `uip.schema`."""
    for graphs in batches(evaluator, structures, max_cost):
        yield from split(evaluator(batch(graphs)), [graph.num_atoms for graph in graphs])


def batches(evaluator: Evaluator, structures: Iterable[Structure], max_cost: int) -> Iterator[list[Graph]]:
    """Graphs of structures, in their order, in groups of at most `max_cost`; raises ValueError for unknown elements."""
    waiting: list[Graph] = []
    total = 0
    neighbors = evaluator.neighbor_list()
    for structure in structures:
        evaluator.check_elements(structure.atomic_numbers)
        graph = neighbors.build(structure)
        cost = graph.num_atoms + graph.num_edges // 2 + graph.num_angles
        if waiting and total + cost > max_cost:
            yield waiting
            waiting, total = [], 0
        waiting.append(graph)
        total += cost
    if waiting:
        yield waiting


def split(outputs: Outputs, atoms_per_graph: Sequence[int]) -> list[Prediction]:
    """The outputs of a batch, one by one, as numpy arrays in float64."""
    arrays = {
        name: getattr(outputs, name).to(device="cpu", dtype=torch.float64).numpy()
        for name in PREDICTED
        if getattr(outputs, name) is not None
    }
    ends = np.cumsum(atoms_per_graph)
    return [
        {name: array[k] if FIELDS[name].letter == "B" else array[end - count : end] for name, array in arrays.items()}
        for k, (count, end) in enumerate(zip(atoms_per_graph, ends, strict=True))
    ]
