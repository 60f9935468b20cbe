"""`uip data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from uip.cli.errors import errors, user_errors
from uip.cli.options import EnergyKey, ForcesKey, StressKey, check_output
from uip.cli.tables import console, print_description


def data(
    file: Annotated[Path, typer.Argument(help="Labelled structures, in any format that ASE reads.")],
    plot: Annotated[Path | None, typer.Option(help="Histograms (.png, .svg, .pdf).")] = None,
    against: Annotated[
        str | None, typer.Option(help="A model whose predictions tell whether labels look inverted or in other units.")
    ] = None,
    energy_key: EnergyKey = "",
    forces_key: ForcesKey = "",
    stress_key: StressKey = "",
) -> None:
    """Describe a data set: counts, elements, label ranges, duplicates, outliers, doubtful signs and units."""
    with user_errors():
        from uip.data.dataset import labelled_structures
        from uip.data.describe import describe, histograms
        from uip.data.label_checks import label_warnings
        from uip.data.labels import LabelKeys

        check_output(plot, (".png", ".svg", ".pdf"), force=True)
        keys = LabelKeys(energy_key, forces_key, stress_key)
        found = describe(labelled_structures(file, keys))
        print_description(found, file.name)
        for warning in label_warnings(found.summary) + (_model_warnings(file, keys, against) if against else []):
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if plot is not None:
            histograms(found, plot, file.name)
            console.print(f"histograms: {plot}", markup=False, highlight=False, soft_wrap=True)


def _model_warnings(file: Path, keys: Any, model: str) -> list[str]:
    from uip.data.dataset import labelled_structures
    from uip.data.label_checks import warnings_against_model
    from uip.inference.evaluator import load_evaluator, predict

    frames = [(structure, labels) for _, structure, labels in labelled_structures(file, keys)]
    predictions = predict(load_evaluator(model), (structure for structure, _ in frames))
    progress = track(predictions, "evaluating", len(frames), console=errors, transient=True)
    return warnings_against_model([labels for _, labels in frames], list(progress))
