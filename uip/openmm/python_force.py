"""The same potential as OpenMM's PythonForce: for OpenMM versions for which the plugin is not compiled, and
for models that are not exported. It is slower, and its XML contains a pickle: load only XML that you trust.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from uip.graph.structure import check_charge_and_spin, check_structure
from uip.inference.evaluator import Evaluator, load_evaluator, split
from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL


class PythonPotential:
    """What a PythonForce calls: State to energy (kJ/mol) and forces (N, 3) kJ/mol/nm.

    Pickled with the bytes of its model file, so that XML is complete.
    """

    def __init__(
        self, model: Path | str, atomic_numbers: Sequence[int], trusted: Path | str | None = None, **settings: Any
    ) -> None:
        self.name = Path(model).name
        self.content = Path(model).read_bytes() if Path(model).is_file() else None
        self.atomic_numbers = np.array(atomic_numbers, dtype=np.int64)
        self.settings = settings
        self.problem: Exception | None = None
        self._load(model, trusted)

    def _load(self, model: Path | str, trusted: Path | str | None = None) -> None:
        s = self.settings
        self.evaluator: Evaluator = load_evaluator(
            model, head=s.get("head"), device=s["device"], dtype=s["dtype"], trusted=trusted
        )
        check_charge_and_spin_of(self.name, self.evaluator, s["charge"], s["spin"])
        self.evaluator.check_elements(self.atomic_numbers)
        self.neighbors = self.evaluator.neighbor_list(skin=s["skin"])

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("name", "content", "atomic_numbers", "settings")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What goes wrong is raised by the first evaluation: OpenMM ends the process at an exception in here."""
        self.__dict__.update(state)
        self.problem = None
        try:
            self._load_content()
        except Exception as error:
            self.problem = error

    def _load_content(self) -> None:
        if self.content is None:
            self._load(self.name)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.name
            path.write_bytes(self.content)
            self._load(path)

    def __call__(self, state: openmm.State) -> tuple[float, NDArray[np.float64]]:
        if self.problem is not None:
            raise self.problem
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        periodic = self.settings["periodic"]
        cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom) if periodic else None
        charge, spin = self.settings["charge"], self.settings["spin"]
        structure = check_structure(self.atomic_numbers, positions, cell, periodic, charge=charge, spin=spin)
        graph = self.neighbors.build(structure)
        (prediction,) = split(self.evaluator(graph), [graph.num_atoms])
        forces = np.ascontiguousarray(prediction["forces"] * (EV_TO_KJ_PER_MOL / A_TO_NM))
        return float(prediction["energy"]) * EV_TO_KJ_PER_MOL, forces


def check_charge_and_spin_of(name: str, evaluator: Evaluator, charge: int, spin: int) -> None:
    charge, spin = check_charge_and_spin(charge, spin)
    inputs = evaluator.potential.inputs
    for quantity, value, neutral in (("charge", charge, 0), ("spin", spin, 1)):
        if value != neutral and quantity not in inputs:
            raise ValueError(f"'{name}' reads no total {quantity}, so `{quantity}` must be {neutral}, got {value}")


def create_python_force(
    model: Path | str,
    atomic_numbers: Sequence[int],
    *,
    periodic: bool,
    particles: Sequence[int] | None = None,
    charge: int = 0,
    spin: int = 1,
    head: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    skin: float = 0.5,
    trusted: Path | str | None = None,
    group: int = 0,
    name: str = "UipPythonForce",
) -> openmm.PythonForce:
    """A PythonForce of a potential; arguments as for `create_force`, and

    Args:
        model: also a published name or a checkpoint, which are evaluated eagerly.
        head, device, dtype, trusted: as for `uip.Calculator`.

    Raises:
        ValueError, FileNotFoundError: see `uip.inference.evaluator.load_evaluator`.
    """
    potential = PythonPotential(
        model,
        atomic_numbers,
        trusted,
        periodic=periodic,
        charge=charge,
        spin=spin,
        head=head,
        device=device,
        dtype=dtype,
        skin=skin,
    )
    force = openmm.PythonForce(potential)
    force.setUsesPeriodicBoundaryConditions(periodic)
    if particles is not None:
        force.setParticles([int(k) for k in particles])
    force.setForceGroup(group)
    force.setName(name)
    return force
