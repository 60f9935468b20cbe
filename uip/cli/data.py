"""`uip data FILE` and `uip data build`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, track
from typer.core import TyperGroup

from uip.cli.errors import errors, user_errors
from uip.cli.options import EnergyKey, ForcesKey, Head, StressKey, check_output
from uip.cli.tables import console, print_description


class FileOrCommand(TyperGroup):
    """`uip data FILE` is short for `uip data describe FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Adds the name of the command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["describe", *args]
        return super().parse_args(ctx, args)


def describe(
    file: Annotated[Path, typer.Argument(help="Labelled structures, in any format that ASE reads, or a data store.")],
    plot: Annotated[Path | None, typer.Option(help="Histograms (.png, .svg, .pdf).")] = None,
    against: Annotated[
        str | None, typer.Option(help="A model whose predictions tell whether labels look inverted or in other units.")
    ] = None,
    head: Head = None,
    energy_key: EnergyKey = "",
    forces_key: ForcesKey = "",
    stress_key: StressKey = "",
) -> None:
    """Describe a data set: counts, elements, label ranges, duplicates, outliers, doubtful signs and units."""
    with user_errors():
        from uip.data import describe as description
        from uip.data.label_checks import label_warnings
        from uip.data.labels import LabelKeys

        check_output(plot, (".png", ".svg", ".pdf"), force=True)
        keys = LabelKeys(energy_key, forces_key, stress_key)
        found = description.describe(_labelled(file, keys))
        print_description(found, file.name)
        for warning in label_warnings(found.summary) + (_model_warnings(file, keys, against, head) if against else []):
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if plot is not None:
            description.histograms(found, plot, file.name)
            console.print(f"histograms: {plot}", markup=False, highlight=False, soft_wrap=True)


def build(
    sources: Annotated[list[str], typer.Argument(help="Files, patterns in quotation marks, folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    cutoff: Annotated[float, typer.Option(help="A, of the model: edges are counted to balance batches.")] = 6.0,
    bond_cutoff: Annotated[float, typer.Option(help="A, of the bonds whose angles are counted.")] = 3.0,
    energy_key: EnergyKey = "",
    forces_key: ForcesKey = "",
    stress_key: StressKey = "",
) -> None:
    """Write a data store, from which training reads structures one by one; after a kill the same command goes on.

    Structures and labels are checked as in training.
    """
    with user_errors(), Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        from uip.data.labels import LabelKeys
        from uip.data.sharded_build import BuildSettings, build_sharded

        task = bar.add_task("building", total=None)
        settings = BuildSettings(LabelKeys(energy_key, forces_key, stress_key), cutoff, bond_cutoff)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="ase")
            count = build_sharded(
                sources,
                output,
                settings,
                workers=workers,
                report=lambda done, total: _show(bar, task, done, total),
            )
    console.print(f"{output}: {count} structures", markup=False, highlight=False, soft_wrap=True)


def _show(bar: Progress, task: Any, done: int, total: int) -> None:
    """Progress as a bar on a terminal; in a batch job as at most eleven lines."""
    bar.update(task, completed=done, total=total)
    if not errors.is_terminal and done * 10 // total > (done - 1) * 10 // total:
        errors.print(f"{done} of {total} parts", highlight=False)


def _labelled(source: Path, keys: Any) -> Any:
    """The structures of a file or of a data store, with their labels."""
    from uip.data.dataset import labelled_structures
    from uip.data.sharded import stored_structures

    return stored_structures(source, keys) if source.is_dir() else labelled_structures(source, keys)


def _model_warnings(file: Path, keys: Any, model: str, head: str | None) -> list[str]:
    from uip.data.label_checks import warnings_against_model
    from uip.inference.evaluator import load_evaluator, predict

    frames = [(structure, labels) for _, structure, labels in _labelled(file, keys)]
    predictions = predict(load_evaluator(model, head=head), (structure for structure, _ in frames))
    progress = track(predictions, "evaluating", len(frames), console=errors, transient=True)
    return warnings_against_model([labels for _, labels in frames], list(progress))
