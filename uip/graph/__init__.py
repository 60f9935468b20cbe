"""Graphs of structures. `uip.graph.Graph` and `uip.graph.Outputs` are those of `uip.graph.batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uip.graph.batch import Graph as Graph
    from uip.graph.batch import Outputs as Outputs


def __getattr__(name: str) -> Any:
    # imported when used: structures are read without torch
    if name not in ("Graph", "Outputs"):
        raise AttributeError(f"module 'uip.graph' has no attribute '{name}'")
    from uip.graph import batch

    return getattr(batch, name)
