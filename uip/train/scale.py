"""Scale of the outputs of a new model: the size of the force labels, as in the published training of AllScAIP.

A network gives numbers of size 1; times this scale they are eV. It is a buffer of the model and of its checkpoints.
"""

from __future__ import annotations

import numpy as np

from uip.data.dataset import Dataset
from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.train.config import TrainConfig
from uip.train.heads import of_head

MEASURED = 100_000
"""Largest number of structures whose labels are measured."""


def set_scale(config: TrainConfig, model: Potential | Heads, training: Dataset) -> None:
    """Set `energy_scale` of a new model, of each head, as `data.scale` asks.

    Raises:
        ValueError: fine-tuning, an architecture without a scale, or no force labels.
    """
    if config.data.scale == "none":
        return
    if config.model.init_from:
        raise ValueError(
            "'data.scale' is for new models, but 'model.init_from' is set, whose scale is kept; leave it out"
        )
    for name, head in model.heads.items():
        scale = getattr(head, "energy_scale", None)
        if scale is None:
            raise ValueError(
                f"'data.scale' needs an architecture with a scale, allscaip, got {model.name}; leave it out"
            )
        scale.fill_(rms_force(of_head(config, training, name), name))


def rms_force(dataset: Dataset, head: str = "") -> float:
    """Root mean square of the components of the force labels, eV/A; of a sample if the data set is large."""
    chosen = np.random.default_rng(0).permutation(len(dataset))[:MEASURED]
    total, count = 0.0, 0
    for number in chosen:
        forces = dataset.read("forces", int(number)).double()
        known = forces[forces.isfinite()]
        total, count = total + float(known.square().sum()), count + known.numel()
    if not total:
        raise ValueError(
            "'data.scale' is the root mean square of the forces, but no training structure "
            f"{f'of head {head!r} ' if head else ''}has a force other than zero; leave it out"
        )
    return float(np.sqrt(total / count))
