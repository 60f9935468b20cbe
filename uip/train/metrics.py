"""The log of a run: log.jsonl with one JSON object per line, and learning curves in curves.png.

Lines have `step`, `epoch` and `kind`: "train" (losses and errors of one step) or "validation". A resumed run
removes the lines that were written after the checkpoint, so the log equals that of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_log(path: Path) -> list[Line]:
    """All complete lines; a last line truncated by a crash is ignored."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Log:
    """Appends to log.jsonl in `folder`.

    Args:
        keep: number of lines to keep; later lines, written by an interrupted run, are removed.
        tensorboard: also write the numbers for TensorBoard.
    """

    def __init__(self, folder: Path, *, keep: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / "log.jsonl"
        kept = read_log(self.path)[:keep]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        os.replace(temporary, self.path)
        self.file = self.path.open("a", buffering=1)
        self.drawn = time.monotonic()
        self.writer = _tensorboard(folder, kept[-1]["step"] if kept else 0) if tensorboard else None

    def write(self, line: Line) -> None:
        """One line."""
        self.file.write(f"{json.dumps(line)}\n")
        if self.writer is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def draw(self, *, every: float = 60.0) -> None:
        """Update curves.png if it is older than `every` seconds; drawing takes longer than a short epoch."""
        if time.monotonic() - self.drawn >= every:
            draw_curves(self.path, self.path.with_name("curves.png"))
            self.drawn = time.monotonic()

    def close(self) -> None:
        """Close the file and update curves.png."""
        self.file.close()
        self.draw(every=0.0)
        if self.writer is not None:
            self.writer.close()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("'run.tensorboard' needs the package tensorboard; run 'pip install tensorboard'") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


CURVES = (("loss", ""), ("energy", "meV/atom"), ("forces", "meV/A"), ("stress", "GPa"), ("magmoms", "mu_B"))


def draw_curves(path: Path, image: Path) -> None:
    """Loss and errors against hours of training, training and validation, from a log to a PNG."""
    from matplotlib.figure import Figure

    lines = read_log(path)
    shown = [(name, unit) for name, unit in CURVES if any(line.get(name) is not None for line in lines)]
    figure = Figure(figsize=(3.6 * max(len(shown), 1), 3.4), layout="constrained")
    for number, (name, unit) in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), number + 1)
        for kind, style in (("train", {"alpha": 0.4}), ("validation", {"marker": "o", "markersize": 3})):
            chosen = [line for line in lines if line["kind"] == kind and line.get(name) is not None]
            hours = [line["seconds"] / 3600 for line in chosen]
            axes.plot(hours, [line[name] for line in chosen], label=kind, **style)
        axes.set(xlabel="hours", ylabel=f"{name} / {unit}" if unit else name, yscale="log")
        axes.legend(fontsize="small")
    figure.savefig(image, dpi=120)
