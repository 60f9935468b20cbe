"""Deviations of a committee along a simulation, in the file that `pair_style uip committee file` of LAMMPS writes.

The members run in Python, only in the steps that are reported; the forces of the simulation may be of any model.
Definitions: `uip.inference.committee`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import openmm
from openmm import app, unit

from uip.graph.structure import Structure, check_structure
from uip.inference.committee import load_committee
from uip.inference.evaluator import Prediction, split
from uip.openmm.python_force import check_charge_and_spin_of

COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f")
HEADER = f"#{'step':>11}{''.join(f'{name:>19}' for name in COLUMNS)}\n"


class DeviationReporter:
    """Writes the deviations of a committee to a table: add it to `Simulation.reporters`.

    Columns, those of DeePMD-kit's `out_file`: step; largest, smallest and mean deviation of virials (eV/atom; the mean
    is a root of a mean square over nine components) and of forces (eV/A, over atoms).

    Args:
        file: a path, or an open text file.
        interval: steps between lines.
        models: two or more files of `uip export`, checkpoints or published names, as of `uip.Calculator`.
        atomic_numbers: of each atom that the models see.
        periodic: as of `create_force`, like `particles`, `charge` and `spin`.
        append: write after what the file at a path has already, for a continued simulation.
        device: as of `uip.Calculator`, like `dtype` and `trusted`.

    Raises:
        ValueError: `interval` below 1; fewer than two models, or models that cannot share a graph; elements, charge or
            spin that they do not read; `particles` of another number than `atomic_numbers`; `append` to another
            kind of file.
        FileNotFoundError: no such model file.
    """

    def __init__(
        self,
        file: Path | str | TextIO,
        interval: int,
        models: Sequence[Path | str],
        atomic_numbers: Sequence[int],
        *,
        periodic: bool,
        particles: Sequence[int] | None = None,
        charge: int = 0,
        spin: int = 1,
        append: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        trusted: Path | str | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"`interval` must be at least 1 step, got {interval}")
        if particles is not None and len(particles) != len(atomic_numbers):
            raise ValueError(
                f"`particles` must name a place for each of the {len(atomic_numbers)} atomic numbers, got "
                f"{len(particles)}"
            )
        if particles is not None and (np.asarray(particles).dtype.kind not in "iu" or min(particles) < 0):
            raise ValueError(f"`particles` must be numbers of particles, 0 or more, got {list(particles)}")
        self.interval, self.periodic, self.charge, self.spin = interval, periodic, charge, spin
        self.atomic_numbers = np.array(atomic_numbers, dtype=np.int64)
        self.particles = None if particles is None else np.array(particles, dtype=np.int64)
        self._committee = load_committee(models, device=device, dtype=dtype, trusted=trusted)
        self._committee.check_elements(self.atomic_numbers)
        for member in self._committee.members:
            check_charge_and_spin_of(member.name, member, charge, spin)
        self._neighbors = self._committee.neighbor_list(skin=0.5)
        if append and isinstance(file, (str, Path)):
            check_header(Path(file))
        self._opened = isinstance(file, (str, Path))
        self._file: TextIO = open(file, "a" if append else "w") if isinstance(file, (str, Path)) else file  # noqa: SIM115
        if not (self._opened and self._file.tell() > 0):
            self._file.write(HEADER)
        elif isinstance(file, (str, Path)) and not Path(file).read_bytes().endswith(b"\n"):
            self._file.write("\n")  # the last line is incomplete: its run was killed

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:  # noqa: N802
        """OpenMM's question: when next, and what is needed."""
        steps = self.interval - simulation.currentStep % self.interval
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Writes one line.

        Raises:
            ValueError: `periodic` is set, but the System has no periodic box.
        """
        if self.periodic and not simulation.system.usesPeriodicBoundaryConditions():
            raise ValueError(
                "`periodic` must be false for a System without periodic boundary conditions, got true: its box vectors "
                "are defaults of OpenMM"
            )
        graph = self._neighbors.build(self._structure(state))
        (prediction,) = split(self._committee(graph), [graph.num_atoms])
        values = "".join(f"{value:19.6e}" for value in deviation_columns(prediction))
        self._file.write(f"{simulation.currentStep:12d}{values}\n")
        self._file.flush()

    def _structure(self, state: openmm.State) -> Structure:
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if self.particles is not None:
            positions = positions[self.particles]
        cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom) if self.periodic else None
        return check_structure(self.atomic_numbers, positions, cell, self.periodic, charge=self.charge, spin=self.spin)

    def __del__(self) -> None:
        if getattr(self, "_opened", False):
            self._file.close()


def check_header(file: Path) -> None:
    """Raises ValueError if `file` has something else than a header of deviations in its first line."""
    if not file.exists() or not file.stat().st_size:
        return
    with file.open(errors="replace") as text:
        first = text.readline()
    if first != HEADER:
        raise ValueError(
            f"with `append` {file} must be a file of deviations, but its first line is {first[:60]!r}; name "
            "another file"
        )


def deviation_columns(prediction: Prediction) -> list[float]:
    """Values of `COLUMNS`; virials of models without a virial are NaN, as in LAMMPS."""
    forces, virial = prediction["force_deviation"], prediction.get("virial_deviation", np.full((3, 3), np.nan))
    of_virial = [virial.max(), virial.min(), np.sqrt((virial**2).mean())]
    return [float(value) for value in (*of_virial, forces.max(), forces.min(), forces.mean())]
