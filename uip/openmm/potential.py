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

from uip.config import suggestion

IMPLEMENTATIONS = {
    "native": ("embed", "skin", "name", "scale_parameter", "trusted"),
    "python": ("head", "device", "dtype", "skin", "name", "trusted"),
}
"""With the arguments that each takes beside those of `addForces`."""
CHECKPOINTS = (".ckpt", ".pth", ".tar")
PASSED_ALONG = ("linkAtomDistances", "mlLongRange")
"""Arguments of embeddings, which openmm-ml gives to potentials too."""


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
            args: see `IMPLEMENTATIONS`.

        Raises:
            TypeError: an argument that the implementation does not have.
            ValueError: a model that is not exported (native), an atom without element, another implementation,
                open boundaries in a periodic System.
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
        settings = {k: v for k, v in args.items() if k not in PASSED_ALONG}
        _check_arguments(settings, implementation)
        if implementation == "native":
            _check_file(self.model)
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


def _check_arguments(settings: dict[str, Any], implementation: str) -> None:
    known = (*IMPLEMENTATIONS[implementation], "implementation", "periodic", "charge", "multiplicity")
    for name in settings:
        if name == "spin":
            raise TypeError(
                "createSystem has no argument `spin`; use `multiplicity`, as other potentials of openmm-ml do"
            )
        other = next((i for i, names in IMPLEMENTATIONS.items() if name in names), None)
        hint = f"; implementation='{other}' has it" if other else suggestion(name, known)
        if name not in known:
            raise TypeError(
                f"createSystem of uip's {implementation} implementation has no argument `{name}`{hint}; "
                f"it takes {', '.join(known)}"
            )


def _check_file(model: Any) -> None:
    from uip.importers.published import PUBLISHED  # with torch, which openmm-ml need not load

    if str(model) in PUBLISHED or str(model).endswith(CHECKPOINTS):
        raise ValueError(
            f"the native implementation needs a file written by 'uip export', got '{model}'; run "
            f"'uip export {model} -o model.pt2' and use modelPath='model.pt2', or use implementation='python'"
        )


def _atomic_numbers(topology: app.Topology, atoms: list[int] | None) -> list[int]:
    everyone = list(topology.atoms())
    chosen = everyone if atoms is None else [everyone[k] for k in atoms]
    for atom in chosen:
        if atom.element is None:
            raise ValueError(f"all atoms of the model must have elements, but atom {atom.index} ({atom.name}) has none")
    return [atom.element.atomic_number for atom in chosen]
