"""Provenance of results: the sha256 of a potential."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from uip.importers.published import PUBLISHED
from uip.models.potential import Evaluable, Potential
from uip.program.reader import Program

PIECE = 1 << 20


def checksum(source: str | Path | Potential, potential: Evaluable) -> str:
    """sha256 of the file that `potential` was loaded from, or of the weights of a model in memory."""
    if isinstance(potential, Program):
        return str(potential.metadata["hash"])
    if isinstance(source, Potential):
        assert isinstance(potential, Potential)
        return _of_weights(potential)
    path = PUBLISHED[str(source)].find() if str(source) in PUBLISHED else Path(source)
    assert path is not None
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            total.update(piece)
    return total.hexdigest()


def joint_checksum(checksums: Sequence[str]) -> str:
    """Of a committee; of one potential, its own."""
    return checksums[0] if len(checksums) == 1 else hashlib.sha256(" ".join(checksums).encode()).hexdigest()


def _of_weights(model: Potential) -> str:
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().double().numpy().tobytes())
    return total.hexdigest()
