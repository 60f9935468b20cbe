"""`MLPotential("uip", modelPath="model.pt2")` for openmm-ml, which finds it by the entry point `openmmml.potentials`.

openmm-ml imports this module whenever it is imported itself: nothing here may fail before a potential is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

IMPLEMENTATIONS = ("native", "python")


class UipPotentialImplFactory(MLPotentialImplFactory):
    """What the entry point names."""

    def createImpl(self, name: str, **args: Any) -> MLPotentialImpl:  # noqa: N802
        """Arguments of `MLPotential("uip", ...)`: `modelPath`, a file of `uip export`.

        Raises:
            ValueError: no `modelPath`, or other arguments.
        """
        if set(args) != {"modelPath"}:
            raise ValueError(
                f"MLPotential('{name}', ...) needs `modelPath`, a file written by 'uip export', "
                f"and nothing else, got {sorted(args)}"
            )
        return UipPotentialImpl(args["modelPath"])


class UipPotentialImpl(MLPotentialImpl):
    """Adds the native force, or a PythonForce, to Systems that openmm-ml makes."""

    def __init__(self, model: str) -> None:
        self.model = model

    def addForces(  # noqa: N802
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        implementation: str = "native",
        periodic: bool | None = None,
        charge: int = 0,
        multiplicity: int = 1,
        **args: Any,
    ) -> None:
        """openmm-ml's call; all but the first four can be given to createSystem and createMixedSystem.

        Args:
            implementation: "native" or "python"; native falls back to python, with a warning, where it is not built.
            periodic: default: whether the Topology has a box or the System is periodic.
            charge, multiplicity: of the model's atoms.
            args: further arguments of `create_force` or `create_python_force`: embed, skin, device, dtype, name.

        Raises:
            ValueError: an atom without element, another implementation, open boundaries in a periodic System.
        """
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"`implementation` must be one of {', '.join(IMPLEMENTATIONS)}, got '{implementation}'")
        chosen = None if atoms is None else list(atoms)
        boxed = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        if periodic is False and boxed and implementation == "python" and chosen is not None:
            raise ValueError(
                "a PythonForce on some atoms of a periodic System must be periodic itself: OpenMM 8.6 misplaces its "
                "atoms on GPUs otherwise; leave `periodic` out, or use implementation='native'"
            )
        # openmm-ml passes arguments of embeddings along
        settings = {k: v for k, v in args.items() if k not in ("linkAtomDistances", "mlLongRange")}
        force = self._create(
            implementation,
            _atomic_numbers(topology, chosen),
            periodic=boxed if periodic is None else periodic,
            particles=chosen,
            charge=charge,
            spin=multiplicity,
            group=forceGroup,
            **settings,
        )
        system.addForce(force)

    def _create(self, implementation: str, atomic_numbers: list[int], **settings: Any) -> openmm.Force:
        from uip.openmm import create_force, create_python_force, load_plugin

        if implementation == "native":
            try:
                load_plugin()
                return create_force(self.model, atomic_numbers, **settings)
            except (RuntimeError, FileNotFoundError) as error:
                warnings.warn(f"slower PythonForce instead of the native one: {error}", RuntimeWarning, stacklevel=4)
                settings.pop("embed", None)
        return create_python_force(self.model, atomic_numbers, **settings)

    def getMLLongRange(self) -> bool:  # noqa: N802
        """False: models end at a cutoff or look at nearest images alone, so periodic electrostatics stay with the
        classical force field."""
        return False


def _atomic_numbers(topology: app.Topology, atoms: list[int] | None) -> list[int]:
    everyone = list(topology.atoms())
    chosen = everyone if atoms is None else [everyone[k] for k in atoms]
    for atom in chosen:
        if atom.element is None:
            raise ValueError(f"all atoms of the model must have elements, but atom {atom.index} ({atom.name}) has none")
    return [atom.element.atomic_number for atom in chosen]
