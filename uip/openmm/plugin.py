"""Loads libuipopenmm.so, and calls the few functions of its C interface (openmm_plugin/bindings.cpp).

OpenMM's Python objects have the address of their C++ object (`this`), so ctypes suffices and no bindings are generated.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import openmm
from numpy.typing import NDArray

from uip.plugins import openmm_plugin


@functools.cache
def load_plugin() -> ctypes.CDLL:
    """Load the OpenMM plugin: from now on, XML that holds a UipForce can be read.

    Raises:
        RuntimeError: not built, or built for another OpenMM or torch.
    """
    path = openmm_plugin()
    try:
        openmm.Platform.loadPluginLibrary(str(path))
    except openmm.OpenMMException as error:
        raise RuntimeError(
            f"the OpenMM plugin of uip does not fit this environment: {error}. "
            "Run 'pip install .' again here, or use implementation='python'"
        ) from None
    return _declare(ctypes.CDLL(str(path)))


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, numbers = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_double)
    library.uip_openmm_error.argtypes, library.uip_openmm_error.restype = [], text
    for name, arguments in {
        "uip_openmm_is_uip": [pointer],
        "uip_openmm_read": [pointer, ctypes.c_int, text, numbers, ctypes.c_long],
        "uip_openmm_set_charge_and_spin": [pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int],
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_long
    return library


def _checked(status: int) -> int:
    if status < 0:
        raise openmm.OpenMMException(load_plugin().uip_openmm_error().decode())
    return status


def is_uip(force: openmm.Force) -> bool:
    """Whether a Force is a UipForce."""
    return bool(load_plugin().uip_openmm_is_uip(int(force.this)))


def read(context: openmm.Context, index: int, name: str) -> NDArray[np.float64]:
    """A quantity of the UipForce number `index`, for the present state: a flat array in eV, mu_B or seconds.

    Raises:
        openmm.OpenMMException: not a UipForce, or the model cannot be evaluated.
    """
    function, address, key = load_plugin().uip_openmm_read, int(context.this), name.encode()
    size = _checked(function(address, index, key, None, 0))
    values = np.zeros(size)
    _checked(function(address, index, key, values.ctypes.data_as(ctypes.POINTER(ctypes.c_double)), size))
    return values


def set_charge_and_spin(context: openmm.Context, index: int, charge: int, spin: int) -> None:
    """Change the total charge and spin of the UipForce number `index`, in its System and in the Context."""
    _checked(load_plugin().uip_openmm_set_charge_and_spin(int(context.this), index, charge, spin))
