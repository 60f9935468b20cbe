"""uip in OpenMM.

    system.addForce(create_force("model.pt2", atomic_numbers, periodic=True))

runs an exported file in C++ (openmm_plugin/), on all platforms of OpenMM. By default the XML of a System contains the
model file, which is executable: load only trusted XML. Call `load_plugin` before reading XML. See docs/openmm.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from uip.openmm.force import UipForceView, create_force, find_forces, magmoms, node_energies, set_charge_and_spin
from uip.openmm.plugin import load_plugin
from uip.openmm.reporter import PressureReporter, pressure_tensor
from uip.openmm.structure import topology_from_atoms

if TYPE_CHECKING:
    from uip.openmm.deviation import DeviationReporter as DeviationReporter
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
    "DeviationReporter",
    "create_python_force",
    "topology_from_atoms",
]


# the native force does without torch's Python part; only these import it
WITH_TORCH = {"create_python_force": "python_force", "DeviationReporter": "deviation"}


def __getattr__(name: str) -> Any:
    if name not in WITH_TORCH:
        raise AttributeError(f"module 'uip.openmm' has no attribute '{name}'")
    return getattr(importlib.import_module(f"uip.openmm.{WITH_TORCH[name]}"), name)
