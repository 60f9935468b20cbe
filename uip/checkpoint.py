"""Checkpoints: writes and reads those of uip; reads published ones with `uip.importers`.

A checkpoint is one torch file of tensors and plain containers:

    format "uip-checkpoint", schema_version, model ("chgnet"), settings (the config), state (weights), card (origin)
    coverage (elements and moments that the weights were trained for; absent if not recorded)
    calibration (`uip.models.uncertainty`: projection and record; only of a calibrated model)
    head (its name; only of one of several heads)
    heads (only of several, `uip.models.heads`: the last three of each, which the file itself then lacks)
    training (training state for `--resume`: optimiser, EMA, counters, config; only in last.ckpt)

Files are replaced atomically.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from uip.config import from_dict, suggestion
from uip.importers.published import PUBLISHED, chgnet_from_file, is_chgnet, published_file
from uip.importers.torch_files import read_tensors
from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.models.card import Coverage, ModelCard
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.models.heads import Heads, one_head
from uip.models.potential import Potential
from uip.models.uncertainty import Calibration, CalibrationRecord
from uip.schema import SCHEMA_VERSION

FORMAT = "uip-checkpoint"
HEADS_VERSION = 2
"""Schema version of checkpoints of several heads, with which older readers refuse them."""
MODELS: dict[str, tuple[type[Potential], type[Any]]] = {
    "chgnet": (CHGNet, CHGNetConfig),
    "allscaip": (AllScAIP, AllScAIPConfig),
}
FILE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".pth", ".tar")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_checkpoint(model: Potential | Heads, path: Path | str, *, training: Mapping[str, Any] | None = None) -> None:
    """Write architecture, weights and card of `model` to `path`, replacing it at once or not at all.

    Args:
        training: tensors and plain containers that a run needs to go on, see `read_training`.
    """
    path = Path(path)
    content: dict[str, Any] = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "model": model.name,
        "settings": model.settings(),
        "state": model.state_dict(),
        "card": asdict(model.card),
    }
    if isinstance(model, Heads):
        heads = {name: _own_entries(head) for name, head in model.heads.items()}
        content |= {"schema_version": HEADS_VERSION, "heads": heads}
    else:
        content |= _own_entries(model)
    if training is not None:
        content["training"] = dict(training)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _own_entries(model: Potential) -> dict[str, Any]:
    """What a file says of one head, besides its weights."""
    entries: dict[str, Any] = {"head": model.head} if model.head else {}
    if model.coverage is not None:
        entries["coverage"] = asdict(model.coverage)
    if model.calibration is not None:
        record = asdict(model.calibration.record)
        entries["calibration"] = {"projection": model.calibration.projection, "record": record}
    return entries


def read_training(path: Path | str) -> dict[str, Any]:
    """What `save_checkpoint` was given as `training`, with the weights under "state".

    Raises:
        ValueError: a file that no run wrote, or that is meant for inference alone.
        FileNotFoundError: no such file.
    """
    content = read_tensors(Path(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT or "training" not in content:
        raise ValueError(f"{path} must be a checkpoint of a training run to go on from; take the run's last.ckpt")
    return {**content["training"], "state": content["state"]}


def load_model(
    source: str | Path, *, head: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> Potential:
    """The potential `source`, ready for inference: a published name, our checkpoint, or a published checkpoint file.

    Args:
        head: of a checkpoint with several heads.
        dtype: as of `for_inference`.

    Raises:
        ValueError: unknown name, head, dtype or device; several heads and no choice; unreadable file; a file that holds
            code.
        FileNotFoundError: no such file, or published weights that are not installed.
    """
    return one_head(load_heads(source, dtype=dtype, device=device), head, str(source))


def head_names(source: str | Path) -> tuple[str, ...]:
    """Names of the heads of a checkpoint that has several; none of other models."""
    path = Path(source)
    if path.suffix in (".pt", ".pt2") or not path.is_file():
        return ()
    content = read_tensors(path)
    return tuple(content["heads"]) if isinstance(content, dict) and "heads" in content else ()


def load_heads(source: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Potential | Heads:
    """As `load_model`, with all heads of a checkpoint that has several."""
    if dtype != "bfloat16":
        parse_dtype(dtype)
    parse_device(device)
    name = str(source)
    model = _load_file(published_file(name) if name in PUBLISHED else Path(source))
    if name in PUBLISHED:
        model.card = PUBLISHED[name].card
    for head in model.heads.values():
        for_inference(head, dtype=dtype, device=device)
    return model


def for_inference(model: Potential, *, dtype: str, device: str) -> Potential:
    """`model` itself, moved, its weights constant.

    Args:
        dtype: "float32", "float64", or "bfloat16": float32 but for the products of weights, where a model offers it.

    Raises:
        ValueError: unknown dtype or device; "bfloat16" where it is not offered.
    """
    half = dtype == "bfloat16"
    if half and model.bfloat16_products is None:
        raise ValueError(f"`dtype` 'bfloat16' is not offered by {model.name}; take 'float32' or 'float64'")
    model.to(device=parse_device(device), dtype=torch.float32 if half else parse_dtype(dtype))
    if model.bfloat16_products is not None:
        model.bfloat16_products = half
    return model.requires_grad_(False).eval()


def _load_file(path: Path) -> Potential | Heads:
    if not path.exists() and path.name == str(path) and path.suffix not in FILE_SUFFIXES:
        raise ValueError(f"unknown model '{path}', and no such file{suggestion(str(path), PUBLISHED)}")
    content = read_tensors(path)
    if is_chgnet(content):
        return chgnet_from_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} must be a uip checkpoint or a published CHGNet checkpoint, but is another torch file")
    return _from_content(content, path)


def _from_content(content: dict[str, Any], path: Path) -> Potential | Heads:
    missing = [key for key in ("schema_version", "model", "settings", "state", "card") if key not in content]
    if missing:
        raise ValueError(f"{path} must have the entries of a checkpoint, but lacks {', '.join(missing)}; copy it again")
    newest = max(SCHEMA_VERSION, HEADS_VERSION)
    if content["schema_version"] > newest:
        raise ValueError(
            f"{path} was written with schema {content['schema_version']}, this build reads {newest}; update uip"
        )
    if content["model"] not in MODELS:
        raise ValueError(f"{path} holds an unknown model '{content['model']}'{suggestion(content['model'], MODELS)}")
    model = _untrained(content)
    name, _ = next(model.named_parameters())
    if name in content["state"]:  # float64 weights must not be rounded
        model.to(dtype=content["state"][name].dtype)
    try:
        model.load_state_dict(content["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the architecture it names: {error}") from error
    for head, potential in model.heads.items():
        own = content["heads"][head] if isinstance(model, Heads) else content
        if "coverage" in own:
            potential.coverage = from_dict(Coverage, own["coverage"])
        if "calibration" in own:
            potential.calibration = _calibration(own["calibration"], potential.last_layer.in_features, path)
    return model


def _untrained(content: dict[str, Any]) -> Potential | Heads:
    """A model of the architecture in a checkpoint, with random weights."""
    cls, config = MODELS[content["model"]]
    model = cls(from_dict(config, content["settings"]))
    model.card = from_dict(ModelCard, content["card"])
    model.head = content.get("head", "")
    return Heads.of(model, content["heads"]) if "heads" in content else model


def _calibration(content: dict[str, Any], size: int, path: Path) -> Calibration:
    projection = content["projection"]
    if projection.shape != (size, size):
        raise ValueError(
            f"the calibration in {path} must have a matrix of {size} x {size}, the features of the last layer, but has "
            f"{' x '.join(map(str, projection.shape))}; run 'uip calibrate' again"
        )
    return Calibration(projection, from_dict(CalibrationRecord, content["record"]))


def dtype_name(dtype: str | torch.dtype) -> str:
    """ "float64" of torch.float64 and of "float64"."""
    return str(dtype).removeprefix("torch.")


def parse_dtype(dtype: str) -> torch.dtype:
    """ "float32" or "float64" as torch's own."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be 'float32' or 'float64' ('bfloat16': AllScAIP, inference), got {dtype!r}")
    return DTYPES[dtype]


def parse_device(device: str) -> torch.device:
    """A device that this machine has; "auto" takes the first GPU if there is one.

    Raises:
        ValueError: not a device, or not present.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"`device` must be 'cpu', 'cuda', 'cuda:1', ... or 'auto', got {device!r}") from error
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be 'cpu', 'cuda', 'cuda:1', ... or 'auto', got {device!r}")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"`device` is {device!r}, but torch sees {torch.cuda.device_count()} GPUs; use 'cpu', or a torch with CUDA"
        )
    return place
