"""Load imbalance of ranks for different ways to divide batches, with the sizes of real crystals.

    python benchmarks/load_balance.py DATA.xyz [--ranks 32] [--calibrate 48]

Costs are those of the structures in DATA, drawn with replacement into an epoch of 40,000, as `uip.train` models them.
For each way: sum over steps of the cost of the slowest rank, divided by that of the mean rank, minus one; the same for
the worst step; the largest number of structures in a step. With --calibrate, gradient steps of this number of
structures are timed first (processor time, one thread), and the cost model is fitted to the times. A second table
gives the imbalance for the fitted costs if batches are divided with the default cost model of uip.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.data.sampler import CostModel, assign_to_ranks, epoch_batches, epoch_order
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.models.readout import evaluate
from uip.schema import Floats, Integers
from uip.train.loss import LossConfig, count_labels, penalties, residuals, scales

EPOCH = 40_000


def step_seconds(data: Dataset, number: int, model: CHGNet) -> float:
    """Processor time of the loss of one structure and its gradient, the better of two."""
    sample, config, times = data.batch([number]).to(dtype=torch.float32), LossConfig(), []
    scale = scales(config.weights(0.0), count_labels(sample.targets)).float()
    for _ in range(2):
        began = time.process_time()
        outputs = evaluate(model, sample.graph, training=True)
        (scale * penalties(residuals(outputs, sample.targets, sample.graph), config)).sum().backward()
        times.append(time.process_time() - began)
    return min(times)


def calibrate(data: Dataset, count: int) -> tuple[CostModel, str]:
    """The cost model fitted to measured steps (relative errors), and a description of the fit."""
    torch.set_num_threads(1)
    model = CHGNet(CHGNetConfig())
    by_size = np.argsort(CostModel()(data))
    chosen = by_size[np.linspace(len(by_size) // 10, len(by_size) - 1, count).astype(int)]
    seconds = np.array([step_seconds(data, int(number), model) for number in chosen])
    columns = [np.ones(count), *(data.counts(letter)[chosen] for letter in ("N", "E", "A"))]
    matrix = np.stack(columns, axis=1) / seconds[:, None]
    parts, _ = nonnegative(matrix, np.ones(count))
    error = abs(matrix @ parts - 1.0)
    shipped = CostModel()(data)[chosen]
    rate = np.median(seconds / shipped)
    found = (
        f"{count} structures, {seconds.min():.2f} to {seconds.max():.2f} s: {1e3 * parts[0]:.1f} ms + "
        f"{1e6 * parts[1]:.1f} us an atom + {1e6 * parts[2]:.1f} us an edge + {1e6 * parts[3]:.1f} us an angle "
        f"(mean error {100 * error.mean():.1f} %, worst {100 * error.max():.0f} %); the model that uip ships, times "
        f"{1e6 * rate:.1f} us: mean error {100 * abs(shipped * rate / seconds - 1).mean():.1f} %"
    )
    return CostModel(atom=parts[1], edge=parts[2], angle=parts[3]), found


def nonnegative(matrix: Floats, values: Floats) -> tuple[Floats, list[int]]:
    """Least squares with non-negative coefficients: negative ones are removed, most negative first."""
    kept = list(range(matrix.shape[1]))
    while True:
        found = np.linalg.lstsq(matrix[:, kept], values, rcond=None)[0]
        if found.min() >= 0:
            result = np.zeros(matrix.shape[1])
            result[kept] = found
            return result, kept
        kept.pop(int(found.argmin()))


def pieces(order: Integers, size: int) -> list[Integers]:
    """Parts of `size`, the last one smaller, as in ordinary data loaders."""
    return [order[k : k + size] for k in range(0, len(order), size)]


def at_random(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Each rank takes the next `per_rank` structures."""
    return [np.array_split(batch, ranks) for batch in pieces(epoch_order(len(costs), 0, 0), ranks * per_rank)]


def sorted_serpentine(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Each batch is sorted by cost and assigned to ranks in serpentine order."""
    steps = []
    for batch in pieces(epoch_order(len(costs), 0, 0), ranks * per_rank):
        rows = pieces(batch[np.argsort(-costs[batch], kind="stable")], ranks)
        turned = [row if k % 2 == 0 else row[::-1] for k, row in enumerate(rows)]
        steps.append([np.array([row[rank] for row in turned if rank < len(row)]) for rank in range(ranks)])
    return steps


def greedy_by_cost(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """Ordinary batches, assigned greedily in order of decreasing cost."""
    batches = epoch_batches(costs, ranks * per_rank, 0, 0)
    return [[batch[shard] for shard in assign_to_ranks(costs[batch], ranks)] for batch in batches]


def balanced_batches(costs: Floats, ranks: int, per_rank: int) -> list[list[Integers]]:
    """uip: batches from `isolate_large`, assigned greedily."""
    batches = epoch_batches(costs, ranks * per_rank, 0, 0, num_shards=ranks)
    return [[batch[shard] for shard in assign_to_ranks(costs[batch], ranks)] for batch in batches]


WAYS = {
    "random": at_random,
    "sorted, serpentine": sorted_serpentine,
    "greedy": greedy_by_cost,
    "balanced batches, greedy (uip)": balanced_batches,
}


def balance_table(title: str, costs: Floats, true: Floats, ranks: int) -> Table:
    """Batches divided by `costs`; imbalance computed with `true` costs."""
    table = Table("per rank", "way", "imbalance / %", "worst step / %", "largest step", title=title)
    for per_rank in (4, 16, 64):
        for name, way in WAYS.items():
            steps = way(costs, ranks, per_rank)
            loads = np.array([[true[shard].sum() for shard in shards] for shards in steps])
            total = loads.max(axis=1).sum() / loads.mean(axis=1).sum() - 1
            worst = (loads.max(axis=1) / loads.mean(axis=1)).max() - 1
            largest = max(sum(len(shard) for shard in shards) for shards in steps)
            table.add_row(str(per_rank), name, f"{100 * total:.2f}", f"{100 * worst:.0f}", str(largest))
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--calibrate", type=int, default=0, metavar="STRUCTURES")
    options = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as cache:
        data = Dataset([open_store(options.data, GraphSettings(6.0, 3.0, None, tuple(range(1, 95))), Path(cache))])
        real = CostModel()(data)
        drawn = np.random.default_rng(0).choice(len(real), max(EPOCH, 640 * options.ranks))
        spread = f"{len(real)} structures, cost varies by {real.std() / real.mean():.2f} of its mean, as modelled"
        console.print(balance_table(spread, real[drawn], real[drawn], options.ranks))
        if options.calibrate:
            fitted, found = calibrate(data, options.calibrate)
            console.print(found, soft_wrap=True)
            title = "the same batches, in measured cost"
            console.print(balance_table(title, real[drawn], fitted(data)[drawn], options.ranks))


if __name__ == "__main__":
    main()
