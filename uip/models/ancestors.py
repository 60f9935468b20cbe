"""The old name of `uip.importers.published` and `uip.importers.fairchem`."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    # imported on first use: importers are a layer above models
    return getattr(import_module("uip.importers.published"), name)
