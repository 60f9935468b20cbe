"""Reads torch files of other codes without executing code in them, and maps names of weights."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uip.config import existing_file

Names = tuple[tuple[str, str], ...]
"""(regular expression of the foreign name, our name)."""


def renamed(name: str, table: Names) -> str | None:
    """Our name of a weight, None if the table has no entry."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load all weights of the model.

    Raises:
        ValueError: missing, unknown or misshapen weights.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit the architecture it names: {error}") from error


def read_tensors(path: Path, stand_ins: Iterable[tuple[type, str]] = ()) -> Any:
    """The content of a torch file that holds only tensors and plain containers.

    Args:
        stand_ins: (class, name): objects of the named class become instances of `class`; no code of theirs is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not a torch file, or a pickle that needs to execute code.
    """
    existing_file(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):
            warnings.simplefilter("ignore")  # about pickle protocols of files that are then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, str(error))) from error
    except Exception as error:  # the unpickler of torch fails in any way on the bytes of another kind of file
        if holds_program(path):
            raise ValueError(
                f"{path} must be a checkpoint, but is an exported program; use the checkpoint it was exported from"
            ) from error
        raise ValueError(
            f"{path} must be a torch checkpoint, but is truncated or of another kind; fetch it again"
        ) from error


def holds_program(path: Path) -> bool:
    """Whether `uip export` wrote the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/extra/uip") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _refusal(path: Path, reason: str) -> str:
    if "MLIPInferenceCheckpoint" in reason:
        return f"{path} is a checkpoint of fairchem; run 'uip import fairchem {path} -o NAME.ckpt' and use that file"
    if "unsupported global" in reason.lower():
        return (
            f"{path} contains Python objects other than tensors and was refused: loading it could execute code. "
            "Save only the state dict, with torch.save(model.state_dict(), ...)"
        )
    return f"{path} must be a torch checkpoint, but is another kind of file"
