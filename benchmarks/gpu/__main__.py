"""Everything on one GPU in less than nine minutes: numbers against float64 on the CPU, then times.

    python benchmarks/gpu [--limit 540] [--output benchmarks/results/gpu.json]
    python benchmarks/gpu --dry-run            # the same code on a CPU, with tiny systems, in about a minute
    python benchmarks/gpu --document           # the table of docs/benchmarks.md from --output

It needs this checkout, `pip install .` and a CUDA build of torch. Sections run in this order: ops, models, times of
ops, ASE, training, LAMMPS. Each row is printed and saved when it is there; a row that fails has the message instead of
numbers, and the next one runs. After `--limit` seconds the rest is left out, and named. The exit status is 1 if a row
failed or numbers are wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]
Section = Callable[["Setting"], Iterator[tuple[str, Callable[[], Row]]]]


class Setting:
    """Where and how large."""

    def __init__(self, *, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.warm, self.repeats = (0, 1) if dry else (2, 10)

    def sizes(self, *numbers: int) -> tuple[int, ...]:
        """Sizes of systems; the smallest in a dry run."""
        return numbers[:1] if self.dry else numbers

    def machine(self) -> Row:
        """What the results depend on."""
        name = "CPU (dry run)" if self.dry else torch.cuda.get_device_name()
        return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "date": time.strftime("%F")}


def attempt(make: Callable[[], Row]) -> Row:
    """The row, or why there is none."""
    try:
        return make()
    except Exception as error:  # whatever it is, the other rows are of use
        return {"failed": f"{type(error).__name__}: {str(error)[:500]}"}


def run(sections: dict[str, Section], setting: Setting, limit: float, output: Path) -> Row:
    """All rows, saved after each."""
    begin = time.monotonic()
    results: Row = {"machine": setting.machine(), "rows": [], "left_out": []}
    for name, section in sections.items():
        for label, make in section(setting):
            if time.monotonic() - begin > limit:
                results["left_out"].append(f"{name}: {label}")
                continue
            row = {"section": name, "case": label, **attempt(make)}
            results["rows"].append(row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(results, indent=1) + "\n")
    results["seconds"] = round(time.monotonic() - begin, 1)
    output.write_text(json.dumps(results, indent=1) + "\n")
    return results


def is_bad(row: Row) -> bool:
    """Whether a row failed, or has numbers that are wrong."""
    return "failed" in row or row.get("right") is False


def main() -> int:
    """Run, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=540.0, help="seconds")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    if options.document:
        from gpu_page import write_page

        write_page(options.output)
        return 0
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    elif not torch.cuda.is_available():
        parser.error("a GPU is needed, but torch sees none; --dry-run runs the same code on a CPU")
    from gpu_engines import in_ase, in_lammps, training
    from gpu_models import models
    from gpu_ops import ops, small_blocks, times_of_ops

    sections = {"ops": ops, "models": models, "times": times_of_ops, "ase": in_ase, "train": training}
    if options.dry_run:
        small_blocks()
    results = run({**sections, "lammps": in_lammps}, Setting(dry=options.dry_run), options.limit, options.output)
    bad = [f"{row['section']}: {row['case']}" for row in results["rows"] if is_bad(row)]
    for text, rows in (("failed or wrong", bad), ("left out for lack of time", results["left_out"])):
        if rows:
            print(f"{text}: {'; '.join(rows)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
