"""Loads libuip, the C++ library with the ops and the reader of model files."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[1] / "lib" / "libuip.so"


@functools.cache
def load_library() -> None:
    """Load libuip: its ops become `torch.ops.uip.*`, its reader of model files `torch.classes.uip.Model`.

    Raises:
        RuntimeError: libuip is not built, or was built for another torch.
    """
    if not LIBRARY.is_file():
        raise RuntimeError(
            f"libuip must be built to export or run programs, but {LIBRARY} is missing; run 'pip install .', "
            "or, if it is installed, change to another folder: here the source folder uip/ hides the installed package"
        )
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        raise RuntimeError(
            f"{LIBRARY} does not fit torch {torch.__version__} ({error}); run 'pip install .' again in this environment"
        ) from error
