"""Which structures make a step, and which rank computes which of them.

The order of an epoch follows from seed and epoch alone, never from the number of ranks, so that a run on
other hardware sees the same batches. Within a step structures are dealt so that every rank gets the same
modelled cost: the most expensive first, each to the rank with the least so far. Batches are composed so that
this can succeed (`isolate_large`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from uip.data.dataset import Dataset
from uip.schema import Floats, Integers

VALIDATION_COST = 35_000.0
"""Cost computed at a time where nothing is differentiated twice: of CHGNet about 0.3 GB in float32."""


@dataclass(frozen=True)
class CostModel:
    """Cost of one structure: the defaults are CHGNet's, in units of one angle.

    Fitted to measured gradient steps (benchmarks/load_balance.py --calibrate), mean error 5 %.
    """

    atom: float = 4.0
    edge: float = 1.1
    """Per directed edge."""
    angle: float = 1.0
    pair: float = 0.0
    """Per pair of atoms, near or far."""

    def __call__(self, dataset: Dataset) -> Floats:
        """(B,)."""
        atoms, edges, angles = (dataset.counts(letter).astype(np.float64) for letter in ("N", "E", "A"))
        return self.atom * atoms + self.edge * edges + self.angle * angles + self.pair * atoms**2


COSTS = {"allscaip": CostModel(atom=30.0, edge=0.0, angle=0.0, pair=1.0)}
"""Of models that do not cost what CHGNet costs, in units of their own."""


def cost_model(model: str) -> CostModel:
    """Of the architecture `model`."""
    return COSTS.get(model, CostModel())


def epoch_order(num_samples: int, seed: int, epoch: int) -> Integers:
    """A permutation that follows from seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def equal_batches(order: Integers, batch_size: int) -> list[Integers]:
    """Batches of at most `batch_size`, as few as possible, all of one size to within one: no small rest at the end."""
    return np.array_split(order, -(-len(order) // batch_size)) if len(order) else []


def epoch_batches(costs: Floats, batch_size: int, seed: int, epoch: int, num_shards: int = 1) -> list[Integers]:
    """The batches of an epoch, each structure once: a function of its arguments alone.

    Args:
        num_shards: into how many equal shares batches shall be divisible; as many as ranks, or more.
    """
    order = epoch_order(len(costs), seed, epoch)
    rng = np.random.default_rng([seed, epoch, 1])
    batches = isolate_large(order, costs, batch_size, num_shards, rng)
    return [batches[k] for k in rng.permutation(len(batches))]


def isolate_large(
    order: Integers, costs: Floats, batch_size: int, num_shards: int, rng: np.random.Generator
) -> list[Integers]:
    """Batches that can be divided into `num_shards` parts of like cost.

    A structure that costs more than a share of an average batch cannot be balanced by others of that batch:
    such structures get batches of their own, one a share, with those of nearly their cost (to a few percent
    of noise, so that their company changes from epoch to epoch). The rest keeps its order.
    """
    limit = largest_balanced(costs, batch_size, num_shards)
    light, heavy = order[costs[order] <= limit], order[costs[order] > limit]
    heavy = heavy[np.argsort(-costs[heavy] * rng.uniform(0.97, 1.0, len(heavy)), kind="stable")]
    groups = [heavy[k : k + num_shards] for k in range(0, len(heavy), num_shards)]
    if groups and len(groups[-1]) < num_shards:  # too few for one a share: the light ones fill up
        room = num_shards * costs[groups[-1]].max() - costs[groups[-1]].sum()
        count = int(np.searchsorted(np.cumsum(costs[light]), room))
        groups[-1] = np.concatenate([groups[-1], light[:count]])
        light = light[count:]
    return groups + equal_batches(light, batch_size)


def largest_balanced(costs: Floats, batch_size: int, num_shards: int) -> float:
    """The largest cost that is no more than a share of an average batch of structures up to that cost."""
    ascending = np.sort(costs)
    shares = np.cumsum(ascending) / np.arange(1, len(ascending) + 1) * max(batch_size / num_shards, 1.0)
    light = np.flatnonzero(ascending <= shares)
    return float(ascending[light[-1]]) if light.size else float("inf")


def assign_to_ranks(costs: Floats, num_ranks: int) -> list[Integers]:
    """Places in `costs` for each rank, ascending; ranks may get different numbers, or none."""
    heap = [(0.0, rank) for rank in range(num_ranks)]
    shards: list[list[int]] = [[] for _ in range(num_ranks)]
    for index in np.argsort(-costs, kind="stable"):
        total, rank = heapq.heappop(heap)
        shards[rank].append(int(index))
        heapq.heappush(heap, (total + float(costs[index]), rank))
    return [np.array(sorted(shard), dtype=np.int64) for shard in shards]


def imbalance(costs: Floats, shards: list[Integers]) -> float:
    """max / mean - 1 of what ranks have to do: the part of the mean rank's time for which it waits."""
    loads = np.array([costs[shard].sum() for shard in shards])
    return float(loads.max() / loads.mean() - 1.0)


def micro_batches(numbers: Integers, costs: Floats, max_cost: float) -> list[Integers]:
    """`numbers` in parts of at most `max_cost` (0: no limit), for gradient accumulation; a part has at least one."""
    if max_cost <= 0 or len(numbers) == 0:
        return [numbers] if len(numbers) else []
    parts: list[list[int]] = [[]]
    total = 0.0
    for number in numbers:
        cost = float(costs[number])
        if parts[-1] and total + cost > max_cost:
            parts.append([])
            total = 0.0
        parts[-1].append(int(number))
        total += cost
    return [np.array(part, dtype=np.int64) for part in parts]
