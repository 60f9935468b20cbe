"""uip in OpenMM.

    system.addForce(create_force("model.pt2", atomic_numbers, periodic=True))

runs a file written by `uip export` in C++ (openmm_plugin/), on every platform of OpenMM, serialised as data.
`load_plugin` alone is what a process needs that reads a System from XML. docs/openmm.md has the whole story.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uip.openmm.force import UipForceView, create_force, find_forces, magmoms, node_energies, set_charge_and_spin
from uip.openmm.plugin import load_plugin
from uip.openmm.reporter import PressureReporter, pressure_tensor
from uip.openmm.structure import topology_from_atoms

if TYPE_CHECKING:
    from uip.openmm.python_force import create_python_force as create_python_force

__all__ = [
    "create_force",
    "load_plugin",
    "magmoms",
    "node_energies",
    "set_charge_and_spin",
    "find_forces",
    "UipForceView",
    "pressure_tensor",
    "PressureReporter",
    "create_python_force",
    "topology_from_atoms",
]


def __getattr__(name: str) -> Any:
    # the native force does without torch's Python part; only the PythonForce imports it
    if name != "create_python_force":
        raise AttributeError(f"module 'uip.openmm' has no attribute '{name}'")
    from uip.openmm.python_force import create_python_force

    return create_python_force
