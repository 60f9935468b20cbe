"""Trains the same small AllScAIP in several variants, with equal data and numbers of steps.

    python train.py                     all runs that are not finished; one that was stopped is continued
    python train.py pairs               those of one set

A run with fewer structures has more epochs, and so as many steps. Each has a folder in `runs`, with its log. Several
processes of this command share the runs.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ase.io import write

from uip.data.read import read_atoms
from uip.train.config import TrainConfig, make_config
from uip.train.loop import train
from uip.train.metrics import read_log

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
VARIANTS = {
    "local": {"node_attention": False},
    "attention": {},
    "attention, bias": {"radial": True},
    "attention, bias, sink": {"radial": True, "sink": True},
}
"""Changes to the architecture in the TOML file."""
STRUCTURES = {"random_charges": 500, "pairs": 900}
"""Number of training structures."""


@dataclass(frozen=True)
class Run:
    """One training run."""

    data: str
    """Name of the set and of its TOML file."""
    variant: str
    structures: int
    seed: int = 0
    element_scale: float = 1.0

    @property
    def folder(self) -> Path:
        name = f"{self.variant.replace(', ', '_')}-{self.structures}-{self.seed}"
        return HERE / "runs" / self.data / (name if self.element_scale == 1.0 else f"{name}-{self.element_scale:g}")

    def config(self) -> TrainConfig:
        """The settings of the run."""
        values = tomllib.loads((HERE / f"{self.data}.toml").read_text())
        values["model"]["architecture"] |= {**VARIANTS[self.variant], "element_scale": self.element_scale}
        values["data"] |= {"train": str(first(self.data, self.structures)), "cache": str(HERE / "runs" / "cache")}
        values["run"] |= {"folder": str(self.folder.relative_to(HERE)), "seed": self.seed}
        values["run"]["epochs"] *= STRUCTURES[self.data] // self.structures
        return make_config(values, HERE)

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is in the log."""
        log = self.folder / "log.jsonl"
        if not log.exists():
            return False
        lines = read_log(log)
        return sum(line["kind"] == "validation" for line in lines) >= self.config().run.epochs


def runs() -> Iterator[Run]:
    """All runs, the most important first."""
    for data, structures in STRUCTURES.items():
        yield from (Run(data, variant, structures) for variant in VARIANTS)
    some = ("local", "attention, bias", "attention, bias, sink")
    yield from (Run("random_charges", variant, 500, element_scale=1e-3) for variant in ("local", "attention, bias"))
    yield from (Run("random_charges", variant, structures) for structures in (125, 250) for variant in some)
    for seed in (1, 2):
        yield from (Run(data, variant, STRUCTURES[data], seed) for data in STRUCTURES for variant in VARIANTS)


def first(data: str, structures: int) -> Path:
    """A file with the first training structures of a set, relative to this folder."""
    whole = HERE / f"{data}_train.xyz"
    if structures == STRUCTURES[data]:
        return Path(whole.name)
    part = HERE / "runs" / f"{data}_{structures}.xyz"
    if not part.exists():
        part.parent.mkdir(exist_ok=True)
        write(part, list(read_atoms(f"{whole}@0:{structures}")))
    return part.relative_to(HERE)


def main(only: str = "") -> None:
    """Train what is not finished and not in the hands of another process."""
    for run in runs():
        if only not in ("", run.data):
            continue
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{run.folder}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not run.is_finished:
                print(run.folder.relative_to(HERE), flush=True)
                train(run.config(), resume=(run.folder / "last.ckpt").exists(), report=print)


if __name__ == "__main__":
    main(*sys.argv[1:2])
