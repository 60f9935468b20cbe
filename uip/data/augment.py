"""Data augmentation by random rotations, for models that are not invariant under rotations.

The rotation of a structure is a function of seed, epoch and number, so a resumed run uses the same rotations.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from uip.data.samples import Sample


def random_rotation(*seed: int) -> Tensor:
    """A proper rotation R, (3, 3) float64, uniformly distributed; a function of `seed`."""
    w, x, y, z = (q := np.random.default_rng(seed).normal(size=4)) / np.linalg.norm(q)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def rotated(sample: Sample, rotation: Tensor) -> Sample:
    """A sample rotated by R: vectors become R v, stress becomes R s R^T, scalars do not change."""
    graph, targets, transposed = sample.graph, sample.targets, rotation.mT
    vectors = {name: getattr(graph, name) @ transposed for name in ("positions", "cell", "edge_vec")}
    labels = {"forces": targets.forces @ transposed, "stress": rotation @ targets.stress @ transposed}
    return replace(sample, graph=replace(graph, **vectors), targets=replace(targets, **labels))
