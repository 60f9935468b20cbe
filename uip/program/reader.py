"""Reads exported files (`uip.program.writer`) with the reader of libuip, which LAMMPS and OpenMM also use: the checks,
the self-test and the results are the same."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uip.config import existing_file
from uip.graph.batch import Graph, Outputs
from uip.models.card import ModelCard
from uip.models.readout import assemble_outputs
from uip.ops.soft_rank import SoftNearest
from uip.parallel.library import load_library


@dataclass(frozen=True)
class Program:
    """An exported potential, ready to be called with a `Graph`."""

    card: ModelCard
    cutoff: float
    """A."""
    bond_cutoff: float | None
    """A; None: the model has no angles."""
    soft: SoftNearest | None
    """What makes an edge a bond; None: `bond_cutoff` does."""
    elements: tuple[int, ...]
    """Atomic numbers that the program knows."""
    dtype: torch.dtype
    """Of real tensors."""
    precision: str
    """As of `Potential.precision`."""
    device: torch.device
    parallel: bool
    """Whether several ranks can share a structure."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Names of `uip.schema`, in order."""
    metadata: dict[str, Any]
    """Everything the file says of itself but the self-test, and `hash`, its sha256."""
    handle: Any
    """`torch.classes.uip.Model`."""

    @property
    def head(self) -> str:
        """As of `Potential.head`; files of earlier versions name none."""
        return str(self.metadata.get("head", ""))

    @property
    def program_outputs(self) -> tuple[str, ...]:
        """As of `Potential.program_outputs`."""
        return self.outputs

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the program returns, by name; `tensors`: a superset of `inputs`."""
        return self.handle.run({name: tensors[name] for name in self.inputs})

    def __call__(self, graph: Graph) -> Outputs:
        """Energy, forces, virial, stress and magmoms of a batch, in the program's dtype."""
        real = graph.to(device=self.device, dtype=self.dtype)
        return assemble_outputs(real, self.run(real.tensors()))


def load_program(
    path: Path | str, *, device_index: int = 0, trusted: Path | str | None = None, own: bool = False
) -> Program:
    """The program in `path`, after its self-test.

    Args:
        device_index: the GPU for a file exported for cuda.
        trusted: a file of public keys, lines `ssh-ed25519 KEY COMMENT`: one of them must have signed `path`, and one
            of those in the file that the environment variable UIP_TRUSTED names, if it is set.
        own: this process wrote the file; no signature is asked for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, foreign, of a newer schema, for another torch, processor or device, not signed by a trusted
            key, or a failed self-test.
        RuntimeError: libuip is not built.
    """
    path = existing_file(path)
    load_library()
    try:
        handle = torch.classes.uip.Model(str(path), device_index, str(trusted or ""), own)
    except RuntimeError as error:
        raise ValueError(f"{error}{_advice(path)}") from None
    return _program(handle, _read_record(path), device_index)


def _advice(path: Path) -> str:
    """What to do with a file of fairchem, which is easily taken for a program: it ends in .pt."""
    if b"MLIPInferenceCheckpoint" not in path.read_bytes():
        return ""
    return f". It is a checkpoint of fairchem: run 'uip import fairchem {path} -o NAME.ckpt'"


def _read_record(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        record = torch.load(io.BytesIO(archive.read(f"{root}/extra/uip")), weights_only=True)
    del record["self_tests"]
    return record


def _program(handle: Any, record: dict[str, Any], device_index: int) -> Program:
    device = torch.device("cpu") if record["device"] == "cpu" else torch.device(record["device"], device_index)
    return Program(
        card=ModelCard(**{key: record.get(key, "") for key in ("name", "theory", "licence", "reference")}),
        cutoff=record["cutoff"],
        bond_cutoff=record["bond_cutoff"] or None,
        soft=SoftNearest(**record["soft"]) if record.get("soft") else None,
        elements=tuple(record["elements"]),
        dtype=getattr(torch, record["dtype"]),
        precision=record.get("precision") or record.get("arithmetic") or record["dtype"],  # renamed in 0.2
        device=device,
        parallel=record["parallel"],
        inputs=tuple(record["inputs"]),
        outputs=tuple(record["outputs"]),
        metadata={**record, "hash": handle.hash()},
        handle=handle,
    )
