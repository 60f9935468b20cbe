"""The native force: creates it, finds it in a Context, and reads outputs of the model other than forces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from uip.config import whole_number
from uip.openmm import plugin
from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL

SCALED = "uip"
"""The collective variable under which `create_force` hangs a force with a scale parameter."""


def create_force(
    model: Path | str,
    atomic_numbers: Sequence[int],
    *,
    periodic: bool,
    particles: Sequence[int] | None = None,
    charge: int = 0,
    spin: int = 1,
    scale_parameter: str | None = None,
    skin: float = 0.5,
    embed: bool = True,
    trusted: Path | str | None = None,
    group: int = 0,
    name: str = "UipForce",
) -> openmm.Force:
    """A Force that runs an exported model; add it to one System.

    Args:
        model: a .pt2 or .pt file written by `uip export`.
        atomic_numbers: of each atom that the model sees.
        periodic: whether atoms interact across the box; say True whenever the System is periodic.
        particles: the places of these atoms in the System, virtual sites included; None: all, in order.
        charge: total charge (e), for models that read it.
        spin: multiplicity, for models that read it.
        scale_parameter: name of a global parameter (1 at first) that multiplies the energy. Its derivative is in
            `State.getEnergyParameterDerivatives`. The Force is then a CustomCVForce that holds the model's.
        skin: A; neighbours are sought again when atoms may have moved by half of it.
        embed: XML shall hold the model itself (True) or its path (False), with its hash either way.
        trusted: a file of public keys, one of which must have signed `model` (docs/files.md). XML does not keep it.

    Raises:
        openmm.OpenMMException: no such file, damaged, elements that the model does not know, ...
        ValueError, TypeError: an argument of another kind.
        RuntimeError: the plugin is not built, or not for this OpenMM.
    """
    plugin.load_plugin()
    places: Sequence[int | None] = [None] * len(atomic_numbers) if particles is None else particles
    if len(places) != len(atomic_numbers):
        raise ValueError(
            f"`particles` must name a place for each of the {len(atomic_numbers)} atomic numbers, got {len(places)}"
        )
    if scale_parameter is not None and not str(scale_parameter).isidentifier():
        raise ValueError(f"`scale_parameter` must be a name like 'scale', got '{scale_parameter}'")
    if isinstance(skin, str):
        raise TypeError(f"`skin` must be a number, got '{skin}'")
    charge, spin = whole_number("charge", charge), whole_number("spin", spin)
    group = whole_number("group", group)
    flags = {"periodic": _flag("periodic", periodic), "embed": _flag("embed", embed)}
    atoms = "".join(
        f'<Atom z="{whole_number("atomic_numbers", z)}"/>'
        if place is None
        else f'<Atom z="{whole_number("atomic_numbers", z)}" particle="{whole_number("particles", place)}"/>'
        for z, place in zip(atomic_numbers, places, strict=True)
    )
    keys = "" if trusted is None else f" trusted={quoteattr(str(Path(trusted).absolute()))}"
    # what reads XML is also what makes the force: one way in, and OpenMM owns the result like any of its own
    force = openmm.XmlSerializer.deserialize(
        f'<Force type="UipForce" version="1" name={quoteattr(name)} forceGroup="{group}" '
        f'periodic="{flags["periodic"]}" charge="{charge}" spin="{spin}" skin="{skin * A_TO_NM!r}">'
        f'<Model path={quoteattr(str(Path(model).absolute()))} embed="{flags["embed"]}"{keys}/>'
        f"<Atoms>{atoms}</Atoms></Force>"
    )
    return force if scale_parameter is None else _scaled(force, scale_parameter)


def _flag(name: str, value: object) -> int:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, got {value!r}")
    return int(value)


def _scaled(force: openmm.Force, parameter: str) -> openmm.CustomCVForce:
    scaled = openmm.CustomCVForce(f"{parameter}*{SCALED}")
    scaled.setName(force.getName())
    scaled.setForceGroup(force.getForceGroup())
    scaled.addGlobalParameter(parameter, 1.0)
    scaled.addEnergyParameterDerivative(parameter)
    force.setForceGroup(0)
    scaled.addCollectiveVariable(SCALED, force)
    return scaled


@dataclass(frozen=True)
class UipForceView:
    """A UipForce at work: reads what the model says of the present state of a Context."""

    context: openmm.Context
    index: int
    """The force's number in the System of `context`."""
    weight: float = 1.0
    """What multiplies its energy in the whole System; NaN where only an expression knows."""

    @property
    def energy(self) -> float:
        """Of the model, unscaled, eV."""
        return float(plugin.read(self.context, self.index, "energy")[0])

    @property
    def node_energy(self) -> NDArray[np.float64]:
        """One atom's part of the energy, (N,) eV."""
        return plugin.read(self.context, self.index, "node_energy")

    @property
    def magmoms(self) -> NDArray[np.float64]:
        """(N,) mu_B, magnitudes; empty if the model has none."""
        return plugin.read(self.context, self.index, "magmoms")

    @property
    def virial(self) -> NDArray[np.float64]:
        """Minus the strain derivative of the model's energy, unscaled, (3, 3) eV.

        Raises:
            ValueError: the model's forces are no gradient, so there is none.
        """
        values = plugin.read(self.context, self.index, "virial")
        if values.size == 0:
            raise ValueError("a virial needs forces that are a gradient, but this model has a head for forces")
        return values.reshape(3, 3)

    @property
    def counters(self) -> dict[str, float]:
        """How often and how long (s) the model was evaluated in this Context."""
        names = ("num_evaluations", "num_searches", "neighbor_seconds", "program_seconds", "total_seconds")
        return dict(zip(names, plugin.read(self.context, self.index, "counters").tolist(), strict=True))


def find_forces(context: openmm.Context) -> list[UipForceView]:
    """The UipForces of a Context, also those inside of a CustomCVForce (scale parameter, openmm-ml's interpolation)."""
    return list(_find(context, 1.0))


def _find(context: openmm.Context, weight: float) -> Iterator[UipForceView]:
    for index, force in enumerate(context.getSystem().getForces()):
        if plugin.is_uip(force):
            yield UipForceView(context, index, weight)
        elif isinstance(force, openmm.CustomCVForce):
            force.getCollectiveVariableValues(context)  # brings the present state into the inner Context
            yield from _find(force.getInnerContext(context), weight * _weight(context, force))


def _weight(context: openmm.Context, force: openmm.CustomCVForce) -> float:
    """The factor before the only variable of an expression made by `create_force`."""
    for k in range(force.getNumGlobalParameters()):
        parameter = force.getGlobalParameterName(k)
        if force.getEnergyFunction() == f"{parameter}*{SCALED}":
            return float(context.getParameter(parameter))
    return float("nan")


def _only(context: openmm.Context) -> UipForceView:
    found = find_forces(context)
    if len(found) != 1:
        raise ValueError(f"the Context must have one UipForce to be asked, got {len(found)}; use `find_forces`")
    return found[0]


def magmoms(context: openmm.Context) -> NDArray[np.float64]:
    """Magnetic moments of the model's atoms, (N,) mu_B, for the present state.

    Raises:
        ValueError: not exactly one UipForce, or a model without magnetic moments.
    """
    values = _only(context).magmoms
    if values.size == 0:
        raise ValueError("the model must have magnetic moments to be asked for them, but it has none")
    return values


def node_energies(context: openmm.Context) -> unit.Quantity:
    """One atom's part of the model's energy, (N,), for the present state.

    Raises:
        ValueError: not exactly one UipForce.
    """
    return unit.Quantity(_only(context).node_energy * EV_TO_KJ_PER_MOL, unit.kilojoule_per_mole)


def set_charge_and_spin(context: openmm.Context, *, charge: int = 0, spin: int = 1) -> None:
    """Change the total charge (e) and multiplicity of the model's atoms, in the Context and in its System.

    Raises:
        ValueError: not exactly one UipForce.
        openmm.OpenMMException: the model does not read them.
    """
    view = _only(context)
    plugin.set_charge_and_spin(view.context, view.index, charge, spin)
