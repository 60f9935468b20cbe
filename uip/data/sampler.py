"""Composes batches, and assigns the structures of a batch to ranks (load balancing).

The order of an epoch is a function of seed and epoch, not of the number of ranks, so a run on other hardware
uses the same batches. Within a step, structures are assigned to ranks greedily: in order of decreasing modelled
cost, each to the rank with the lowest cost so far. `isolate_large` composes batches for which this balances well.
Batches differ in size; the loss (`uip/train/loss.py`) gives each label the same weight in every batch.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from uip.data.dataset import Dataset
from uip.schema import Floats, Integers

VALIDATION_COST = 35_000.0
"""Largest cost of a micro-batch without second derivatives: about 0.3 GB for CHGNet in float32."""


@dataclass(frozen=True)
class CostModel:
    """Modelled cost of a structure; the defaults are for CHGNet, in units of one angle.

    Fitted to measured gradient steps (benchmarks/load_balance.py --calibrate), mean error 5 %.
    """

    atom: float = 4.0
    edge: float = 1.1
    """Per directed edge."""
    angle: float = 1.0
    pair: float = 0.0
    """Per pair of atoms, at any distance."""

    def __call__(self, dataset: Dataset) -> Floats:
        """(B,)."""
        atoms, edges, angles = (dataset.counts(letter).astype(np.float64) for letter in ("N", "E", "A"))
        return self.atom * atoms + self.edge * edges + self.angle * angles + self.pair * atoms**2


COSTS = {"allscaip": CostModel(atom=30.0, edge=0.0, angle=0.0, pair=1.0)}
"""Cost models of other architectures, each in its own unit."""


def cost_model(model: str) -> CostModel:
    """The cost model of the architecture `model`."""
    return COSTS.get(model, CostModel())


def epoch_order(num_samples: int, seed: int, epoch: int) -> Integers:
    """A permutation; a function of seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def epoch_batches(costs: Floats, batch_size: int, seed: int, epoch: int, num_shards: int = 1) -> list[Integers]:
    """The batches of an epoch, each structure once, at most `batch_size` in each; a function of the arguments only.

    The number of batches is the same in every epoch.

    Args:
        num_shards: number of shards of equal cost into which batches can be divided; at least the number of ranks.
    """
    order = epoch_order(len(costs), seed, epoch)
    rng = np.random.default_rng([seed, epoch, 1])
    batches = isolate_large(order, costs, batch_size, num_shards, rng)
    return [batches[k] for k in rng.permutation(len(batches))]


def isolate_large(
    order: Integers, costs: Floats, batch_size: int, num_shards: int, rng: np.random.Generator
) -> list[Integers]:
    """Batches that can be divided into `num_shards` shards of similar cost.

    A structure that costs more than a shard of an average batch cannot be balanced by others in that batch. Such
    structures get separate batches, one structure per shard, with structures of similar cost (a few percent of
    noise changes the grouping from epoch to epoch). The other structures keep their order.
    """
    limit = largest_balanced(costs, batch_size, num_shards) if num_shards > 1 else np.inf
    light, heavy = order[costs[order] <= limit], order[costs[order] > limit]
    heavy = heavy[np.argsort(-costs[heavy] * rng.uniform(0.97, 1.0, len(heavy)), kind="stable")]
    groups = [heavy[k : k + num_shards] for k in range(0, len(heavy), num_shards)]
    num_light = -(-len(light) // batch_size)
    if groups and len(groups[-1]) < num_shards:  # fewer than one per shard: fill up with light structures
        space = min(batch_size - len(groups[-1]), len(light) - num_light)  # no other batch becomes empty
        room = num_shards * costs[groups[-1]].max() - costs[groups[-1]].sum()
        count = int(np.searchsorted(np.cumsum(costs[light[:space]]), room))
        groups[-1], light = np.concatenate([groups[-1], light[:count]]), light[count:]
    return groups + (np.array_split(light, num_light) if num_light else [])


def largest_balanced(costs: Floats, batch_size: int, num_shards: int) -> float:
    """The largest cost that does not exceed a shard of an average batch of structures up to that cost."""
    ascending = np.sort(costs)
    shards = np.cumsum(ascending) / np.arange(1, len(ascending) + 1) * max(batch_size / num_shards, 1.0)
    light = np.flatnonzero(ascending <= shards)
    return float(ascending[light[-1]]) if light.size else float("inf")


def assign_to_ranks(costs: Floats, num_ranks: int) -> list[Integers]:
    """Indices into `costs` for each rank, ascending; ranks may get different numbers of structures, or none."""
    heap = [(0.0, rank) for rank in range(num_ranks)]
    shards: list[list[int]] = [[] for _ in range(num_ranks)]
    for index in np.argsort(-costs, kind="stable"):
        total, rank = heapq.heappop(heap)
        shards[rank].append(int(index))
        heapq.heappush(heap, (total + float(costs[index]), rank))
    return [np.array(sorted(shard), dtype=np.int64) for shard in shards]


def imbalance(costs: Floats, shards: list[Integers]) -> float:
    """max / mean - 1 of the costs of ranks: waiting time relative to the computing time of the mean rank."""
    loads = np.array([costs[shard].sum() for shard in shards])
    return float(loads.max() / loads.mean() - 1.0)


def micro_batches(numbers: Integers, costs: Floats, max_cost: float) -> list[Integers]:
    """`numbers` in parts of cost at most `max_cost` (0: no limit) or of one structure, for gradient accumulation."""
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
