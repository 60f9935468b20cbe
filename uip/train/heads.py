"""Several heads in a run: which structures train which head.

A batch has structures of all heads. Its micro-batches have one head each, so that a model sees nothing of others.
"""

from __future__ import annotations

import numpy as np

from uip.data.dataset import Dataset
from uip.data.sampler import micro_batches
from uip.data.samples import Sample
from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.schema import Floats, Integers
from uip.train.config import TrainConfig


def by_head(config: TrainConfig, data: Dataset, numbers: Integers) -> list[Integers]:
    """`numbers` of samples in parts of one head each, in order of heads; as they are, if the model has one."""
    if not config.model.heads:
        return [numbers]
    heads = np.array(config.head_of_set)[data.set_numbers(numbers)]
    return [numbers[heads == head] for head in config.model.heads]


def portions(config: TrainConfig, data: Dataset, numbers: Integers, costs: Floats, max_cost: float) -> list[Integers]:
    """`micro_batches` of one head each."""
    return [part for one in by_head(config, data, numbers) for part in micro_batches(one, costs, max_cost)]


def of_head(config: TrainConfig, data: Dataset, head: str) -> Dataset:
    """The samples of one head; all, if the model has one."""
    if not config.model.heads:
        return data
    return data.subset(by_head(config, data, np.arange(len(data)))[config.model.heads.index(head)])


def head_of(config: TrainConfig, model: Potential | Heads, sample: Sample) -> Potential:
    """What predicts a batch, all structures of which have one head."""
    number = 0 if sample.sets is None else int(sample.sets[0])
    return model.heads[config.head_of_set[number]]
