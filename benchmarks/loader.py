"""Data stores at the size of MPtrj: structures per second, memory, disk, time to the first batch and the first step.

    python benchmarks/loader.py [DATA.xyz] [--structures 10000 100000] [--counted 10000] [--folder FOLDER]

A set is generated: structures of DATA with displaced atoms, or without DATA simple cubic crystals with sizes that are
as uneven as those of MPtrj (31 atoms on average); energy, forces, stress and magmoms are random numbers. It is written
as extxyz and built to a store by 1 and by 2 processes. Beyond --counted structures, which are built once, shards are
repeated as further files. A second process then opens the store, composes the batches of an epoch, and reads batches of
64 structures with graphs of CHGNet in float32, in an order as random as in training, made by 1 and by 2 processes. A
third one trains a CHGNet up to its first step (batches of 4 structures, one thread).

Memory is that of a rank and its processes: private memory, and their part of what is shared (PSS). Rates are of wall
time, in brackets the processor time per structure, of all processes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from rich.console import Console
from rich.table import Table

from uip.data.dataset import Dataset, GraphSettings
from uip.data.prefetch import prefetch
from uip.data.sampler import CostModel, epoch_batches
from uip.data.sharded import ShardedStore, digest
from uip.data.sharded_build import BuildSettings, build_sharded
from uip.train.config import make_config
from uip.train.loop import train

BATCH = 64
PER_FILE = 5000


def crystal(rng: np.random.Generator) -> Atoms:
    """A simple cubic crystal of 2.5 A and two elements: as dense as crystals of MPtrj."""
    shape = np.maximum(np.rint(np.cbrt(rng.lognormal(3.1, 0.8)) * rng.uniform(0.7, 1.4, 3)), 1).astype(int)
    points = np.argwhere(np.ones(shape))
    return Atoms(rng.choice([3, 8, 14, 26], 2)[points.sum(axis=1) % 2], 2.5 * points, cell=2.5 * shape, pbc=True)


def labelled(atoms: Atoms, rng: np.random.Generator, number: int) -> Atoms:
    """A copy with displaced atoms and random labels."""
    count = len(atoms)
    copy = Atoms(atoms.numbers, atoms.positions + rng.normal(0.0, 0.03, (count, 3)), cell=atoms.cell, pbc=atoms.pbc)
    stress = rng.normal(0.0, 0.01, 6)
    labels = {"energy": -5.0 * count, "forces": rng.normal(size=(count, 3)), "stress": stress}
    copy.calc = SinglePointCalculator(copy, **labels, magmoms=rng.uniform(size=count))
    copy.info["material"] = f"m-{number // 10}"
    return copy


def generate(folder: Path, sample: list[Atoms], count: int) -> list[str]:
    """Files with `count` structures."""
    rng, files = np.random.default_rng(0), []
    for first in range(0, count, PER_FILE):
        numbers = range(first, min(first + PER_FILE, count))
        chosen = (sample[rng.integers(len(sample))] if sample else crystal(rng) for _ in numbers)
        files.append(str(folder / f"{first:08d}.xyz"))
        write(files[-1], [labelled(atoms, rng, k) for k, atoms in zip(numbers, chosen, strict=True)])
    return files


def repeat(store: Path, folder: Path, count: int) -> Path:
    """A store of `count` structures: shards of `store`, repeated, the last one cut off."""
    content, rows = json.loads((store / "store.json").read_text()), np.load(store / "rows.npy")
    folder.mkdir()
    copies = -(-count // len(rows))
    shards, parts = [], []
    for copy in range(copies):
        for shard in content["shards"]:
            shards.append({**shard, "name": f"{copy:05d}-{shard['name']}"})
            for suffix in ("bin", "jsonl"):
                shutil.copy(store / f"{shard['name']}.{suffix}", folder / f"{shards[-1]['name']}.{suffix}")
        parts.append(rows.copy())
        parts[-1]["shard"] += copy * len(content["shards"])
    rows = np.concatenate(parts)[:count]
    np.save(folder / "rows.npy", rows)
    content |= {"structures": count, "digest": digest(rows), "shards": shards}
    (folder / "store.json").write_text(json.dumps(content))
    return folder


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def memory() -> float:
    """PSS of this process and its children, MB."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    return sum(int(text.split("Pss:")[1].split()[0]) for text in texts) / 1024


def build(files: list[str], folder: Path, workers: int) -> dict[str, float]:
    """Seconds of the build of a store, per structure."""
    began, before = time.monotonic(), processor_seconds()
    count = build_sharded(files, folder, BuildSettings(), workers=workers)
    return {"wall": (time.monotonic() - began) / count, "cpu": (processor_seconds() - before) / count}


def load(folder: Path, workers: int, batches: int) -> dict[str, float]:
    """Seconds to the first batch, then per structure; memory."""
    torch.set_num_threads(1)
    base, began = memory(), time.monotonic()
    data = Dataset([ShardedStore(folder, GraphSettings(6.0, 3.0, None, tuple(range(1, 95))))])
    order = epoch_batches(CostModel()(data), BATCH, 0, 0)[: batches + 1]
    made = prefetch([partial(ready, data, batch) for batch in order], workers)
    next(made)
    first, count = time.monotonic(), 0
    before = processor_seconds()
    for batch, sample in zip(order[1:], made, strict=True):
        assert sample.graph.num_graphs == len(batch)
        count += len(batch)
        if batch is order[-2]:  # its processes still run
            most = memory()
    seconds = time.monotonic() - first
    return {
        "first": first - began,
        "wall": seconds / count,
        "cpu": (processor_seconds() - before) / count,
        "memory": most,
        "libraries": base,
    }


def ready(data: Dataset, batch: np.ndarray) -> Any:
    """A batch as a model in float32 takes it."""
    return data.batch(batch).to(dtype=torch.float32)


class FirstStep(Exception):  # noqa: N818
    """Ends a run."""


def first_step(folder: Path, workers: int) -> dict[str, float]:
    """Seconds from the start of a run to the end of its first step; memory before this step."""
    before: list[float] = []

    def stop(done: int, total: int, structures: int) -> None:
        raise FirstStep

    data = {"train": str(folder), "split_by": "material", "batch_size": 4, "workers": workers}
    run = {"folder": str(folder.parent / f"run{workers}"), "threads": 1, "device": "cpu"}
    began = time.monotonic()
    try:
        train(make_config({"data": data, "run": run}), report=lambda text: before.append(memory()), on_step=stop)
    except FirstStep:
        return {"first": time.monotonic() - began, "memory": max(before)}
    raise AssertionError


def in_process(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """The result of a function in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(folder: Path, sample: list[Atoms], count: int, counted: int, batches: int) -> list[tuple[str, ...]]:
    """The rows of the table for `count` structures."""
    files = generate(folder, sample, min(count, counted))
    built = {workers: build(files, folder / f"built{workers}", workers) for workers in (1, 2)}
    store = repeat(folder / "built1", folder / "store", count) if count > counted else folder / "built1"
    disk = sum(path.stat().st_size for path in store.iterdir())
    rows = [("bytes on disk", f"{disk / 1e9:.3f} GB, {disk / count:.0f} per structure")]
    for workers, found in built.items():
        rows.append((f"build, {workers} processes", f"{1 / found['wall']:.0f} / s ({1e3 * found['cpu']:.2f} ms)"))
    for workers in (1, 2):
        found = in_process(load, store, workers, batches)
        rows += [
            (f"load, {workers} processes", f"{1 / found['wall']:.0f} / s ({1e3 * found['cpu']:.2f} ms)"),
            ("    first batch", f"{found['first']:.1f} s"),
            ("    memory", f"{found['memory']:.0f} MB, of these {found['libraries']:.0f} before the store is opened"),
        ]
    found = in_process(first_step, store, 1)
    rows += [("first step of a run", f"{found['first']:.1f} s")]
    rows += [("    memory before it", f"{found['memory']:.0f} MB")]
    return [(f"{count}", *row) for row in rows]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--structures", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--counted", type=int, default=10_000)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="for the sets; default: the folder of temporary files")
    options = parser.parse_args()
    sample = read(options.data, ":") if options.data else []
    table = Table("structures", "measured", "result")
    for count in options.structures:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for row in measure(Path(folder), sample, count, options.counted, options.batches):
                table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
