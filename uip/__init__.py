"""Universal interatomic potentials: trained, exported, and run inside LAMMPS and OpenMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uip.calculator import Calculator as Calculator
    from uip.calculator import UIPCalculator as UIPCalculator
    from uip.checkpoint import load_model as load_model
    from uip.graph.batch import Graph as Graph
    from uip.graph.batch import Outputs as Outputs

__version__ = "0.1.0"

_PUBLIC = {
    "Calculator": "uip.calculator",
    "UIPCalculator": "uip.calculator",
    "load_model": "uip.checkpoint",
    "Graph": "uip.graph.batch",
    "Outputs": "uip.graph.batch",
}
__all__ = ["Calculator", "UIPCalculator", "load_model", "Graph", "Outputs", "__version__"]


def __getattr__(name: str) -> Any:
    # torch is imported when a name is used, so that `import uip` (as LAMMPS's plugin search does) stays light
    if name not in _PUBLIC:
        raise AttributeError(f"module 'uip' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
