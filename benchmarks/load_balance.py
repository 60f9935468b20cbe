"""How long ranks wait for each other when batches are divided in different ways, on the sizes of real crystals.

    python benchmarks/load_balance.py DATA.xyz [--ranks 32]

Costs are those of the structures in DATA (atoms + undirected edges + angles), drawn with replacement into an
epoch of 40,000. For each way of dividing: sum over steps of the slowest rank's cost over the sum of the mean
rank's, minus one; what the slowest of all steps has; and how many structures a step has at most.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.data.sampler import CostModel, Floats, Integers, cut, deal, epoch_batches, epoch_order

EPOCH = 40_000


def real_costs(path: Path) -> Floats:
    """Modelled cost of every structure of a file, with CHGNet's cutoffs."""
    with tempfile.TemporaryDirectory() as cache:
        store = open_store(path, GraphSettings(6.0, 3.0, None, tuple(range(1, 95))), Path(cache))
        return CostModel()(Dataset([store]))


def at_random(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Every rank takes the next `per_rank` structures."""
    return [np.array_split(batch, ranks) for batch in cut(epoch_order(len(costs), 0, 0), ranks * per_rank)]


def sorted_and_dealt(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Each batch is sorted by cost and dealt forth and back, so that ranks get large and small ones."""
    steps = []
    for batch in cut(epoch_order(len(costs), 0, 0), ranks * per_rank):
        rows = cut(batch[np.argsort(-costs[batch], kind="stable")], ranks)
        turned = [row if k % 2 == 0 else row[::-1] for k, row in enumerate(rows)]
        steps.append([np.array([row[rank] for row in turned if rank < len(row)]) for rank in range(ranks)])
    return steps


def dealt_by_cost(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Ordinary batches, the most expensive first to the rank with the least."""
    batches = epoch_batches(costs, ranks * per_rank, 0, 0)
    return [[batch[hand] for hand in deal(costs[batch], ranks)] for batch in batches]


def levelled(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Ours: batches composed to be divisible, then dealt by cost."""
    batches = epoch_batches(costs, ranks * per_rank, 0, 0, num_shares=ranks)
    return [[batch[hand] for hand in deal(costs[batch], ranks)] for batch in batches]


WAYS = {
    "random": at_random,
    "sorted and dealt": sorted_and_dealt,
    "greedy": dealt_by_cost,
    "levelled and greedy (uip)": levelled,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ranks", type=int, default=32)
    options = parser.parse_args()
    real = real_costs(options.data)
    costs = np.random.default_rng(0).choice(real, EPOCH)
    spread = f"{len(real)} structures, cost varies by {real.std() / real.mean():.2f} of its mean"
    table = Table("per rank", "way", "imbalance / %", "worst step / %", "largest step", title=spread)
    for per_rank in (4, 16, 64):
        for name, way in WAYS.items():
            steps = way(costs, options.ranks, per_rank)
            loads = np.array([[costs[hand].sum() for hand in hands] for hands in steps])
            total = loads.max(axis=1).sum() / loads.mean(axis=1).sum() - 1
            worst = (loads.max(axis=1) / loads.mean(axis=1)).max() - 1
            largest = max(sum(len(hand) for hand in hands) for hands in steps)
            table.add_row(str(per_rank), name, f"{100 * total:.2f}", f"{100 * worst:.0f}", str(largest))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
