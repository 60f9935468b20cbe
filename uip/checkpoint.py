"""Checkpoints: writes and reads those of uip; reads published ones with `uip.importers`.

A checkpoint is one torch file of tensors and plain containers:

    format "uip-checkpoint", schema_version, model ("chgnet"), settings (the config), state (weights), card (origin)
    coverage (elements and moments that the weights were trained for; absent if not recorded)
    calibration (`uip.models.uncertainty`: projection and record; only of a calibrated model)
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
from uip.models.potential import Potential
from uip.models.uncertainty import Calibration, CalibrationRecord
from uip.schema import SCHEMA_VERSION

FORMAT = "uip-checkpoint"
MODELS: dict[str, tuple[type[Potential], type[Any]]] = {
    "chgnet": (CHGNet, CHGNetConfig),
    "allscaip": (AllScAIP, AllScAIPConfig),
}
FILE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".pth", ".tar")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_checkpoint(model: Potential, path: Path | str, *, training: Mapping[str, Any] | None = None) -> None:
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
    if model.coverage is not None:
        content["coverage"] = asdict(model.coverage)
    if model.calibration is not None:
        record = asdict(model.calibration.record)
        content["calibration"] = {"projection": model.calibration.projection, "record": record}
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


def load_model(source: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Potential:
    """The potential `source`, ready for inference: a published name, our checkpoint, or a published checkpoint file.

    Args:
        dtype: as of `for_inference`.

    Raises:
        ValueError: unknown name, dtype or device; unreadable file; a file that holds code.
        FileNotFoundError: no such file, or published weights that are not installed.
    """
    if dtype != "bfloat16":
        parse_dtype(dtype)
    parse_device(device)
    name = str(source)
    model = _load_file(published_file(name) if name in PUBLISHED else Path(source))
    if name in PUBLISHED:
        model.card = PUBLISHED[name].card
    return for_inference(model, dtype=dtype, device=device)


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


def _load_file(path: Path) -> Potential:
    if not path.exists() and path.name == str(path) and path.suffix not in FILE_SUFFIXES:
        raise ValueError(f"unknown model '{path}', and no such file{suggestion(str(path), PUBLISHED)}")
    content = read_tensors(path)
    if is_chgnet(content):
        return chgnet_from_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} must be a uip checkpoint or a published CHGNet checkpoint, but is another torch file")
    return _from_content(content, path)


def _from_content(content: dict[str, Any], path: Path) -> Potential:
    missing = [key for key in ("schema_version", "model", "settings", "state", "card") if key not in content]
    if missing:
        raise ValueError(f"{path} must have the entries of a checkpoint, but lacks {', '.join(missing)}; copy it again")
    if content["schema_version"] > SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written with schema {content['schema_version']}, this build reads {SCHEMA_VERSION}; update uip"
        )
    if content["model"] not in MODELS:
        raise ValueError(f"{path} holds an unknown model '{content['model']}'{suggestion(content['model'], MODELS)}")
    cls, config = MODELS[content["model"]]
    model = cls(from_dict(config, content["settings"]))
    name, _ = next(model.named_parameters())
    if name in content["state"]:  # float64 weights must not be rounded
        model.to(dtype=content["state"][name].dtype)
    try:
        model.load_state_dict(content["state"])
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the architecture it names: {error}") from error
    model.card = from_dict(ModelCard, content["card"])
    if "coverage" in content:
        model.coverage = from_dict(Coverage, content["coverage"])
    if "calibration" in content:
        model.calibration = _calibration(content["calibration"], model.last_layer.in_features, path)
    return model


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
