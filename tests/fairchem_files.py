"""Toy AllScAIP models of fairchem-core 2.24 with the numbers of its own code for eight structures
(tests/data/allscaip), and ways to write files like its checkpoints without it."""

from __future__ import annotations

import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

DATA = Path(__file__).parent / "data" / "allscaip"
VARIANTS = ("plain", "angular", "radial", "full")
CHECKPOINT = DATA / "fairchem_checkpoint.pt"
MODULE = "fairchem.core.units.mlip_unit.api.inference"


def read_json(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())


def read_state(name: str) -> dict[str, Tensor]:
    """Weights in a safetensors file: length of the header, header with offsets, bytes."""
    raw = (DATA / f"{name}.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    state = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        assert entry["dtype"] == "F32"
        start, end = entry["data_offsets"]
        state[key] = torch.from_numpy(np.frombuffer(body[start:end], dtype="<f4").reshape(entry["shape"]).copy())
    return state


def atoms_of(record: dict[str, Any]) -> Atoms:
    atoms = Atoms(record["numbers"], record["positions"], cell=record["cell"], pbc=record["pbc"])
    atoms.info.update(charge=record["charge"], spin=record["spin"])
    return atoms


def direct(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a force head whose component a is 2^a times the energy of an atom."""
    head = "output_heads.efs."
    kept = {name.replace(head, "output_heads.oc20_energy."): value for name, value in state.items()}
    forces = {
        name.replace(head, "output_heads.forces.").replace("energy_ffn", "force_ffn"): value
        for name, value in state.items()
        if name.startswith(head)
    }
    for part in ("weight", "bias"):
        name = f"output_heads.forces.force_ffn.1.0.{part}"
        forces[name] = torch.cat([forces[name] * 2.0**axis for axis in range(3)])
    return {**kept, **forces}


class Writer:
    """Writes objects of fairchem's checkpoint class, which exists while the fixture lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind = type("MLIPInferenceCheckpoint", (), {"__module__": MODULE})
        module = types.ModuleType(MODULE)
        module.MLIPInferenceCheckpoint = self.kind
        monkeypatch.setitem(sys.modules, "fairchem", types.ModuleType("fairchem"))
        monkeypatch.setitem(sys.modules, MODULE, module)

    def write(self, path: Path, **changes: Any) -> Path:
        """The toy checkpoint with other fields."""
        content = self.kind()
        content.__dict__.update({**toy_fields(), **changes})
        torch.save(content, path)
        return path


def toy_fields() -> dict[str, Any]:
    """The fields of the toy checkpoint, free to be changed."""
    from uip.importers.fairchem import STAND_INS
    from uip.importers.torch_files import read_tensors

    return dict(read_tensors(CHECKPOINT, STAND_INS).__dict__)
