"""`uip predict` and `uip eval`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from uip.cli.errors import USER_ERRORS, all_ranks, debug_is_on, errors, user_errors
from uip.cli.options import (
    AsJson,
    Device,
    Dtype,
    EnergyKey,
    ForcesKey,
    Format,
    Head,
    Models,
    Species,
    StressKey,
    Trusted,
    check_output,
    checked_structures,
    species_of,
)
from uip.cli.output import GrowingFile, check_other_file
from uip.cli.tables import prediction_row, print_errors, print_predictions, with_results


def predict(
    files: Annotated[
        list[str],
        typer.Argument(help="Structures, in any format that ASE reads; FILE@0:2 for some frames; - for stdin."),
    ],
    model: Models = ["chgnet-0.3.0"],  # noqa: B006, typer copies it
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write an extxyz file with results.")] = None,
    head: Head = None,
    device: Device = None,
    dtype: Dtype = None,
    kind: Format = None,
    species: Species = None,
    trusted: Trusted = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Continue after a structure that cannot be computed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Energy, forces, stress and magnetic moments of structures: a table, and an extxyz file.

    The file grows with each structure. Under mpiexec the ranks share each structure. With several models, -m A -m B,
    results are means, and deviations between the models are added.
    """
    with user_errors(), all_ranks() as ranks:
        from uip.inference.committee import load_evaluators
        from uip.inference.stream import predict_stream

        check_output(output, (".xyz", ".extxyz"), force=force)
        check_other_file(output, files)
        if ranks is not None and "-" in files:
            raise ValueError("standard input reaches one rank only; name a file")
        evaluator = load_evaluators(model, head=head, device=device, dtype=dtype, trusted=trusted)
        results = predict_stream(evaluator, frames_of(files, kind, species_of(species)), ranks=ranks)
        first = ranks is None or ranks.rank == 0
        # what fails on one rank must end all of them, and --debug shows the traceback
        stop_at_error = ranks is not None or debug_is_on()
        written = GrowingFile(output if first else None)
        rows, bad, reason = _collect(results, written, skip_bad=skip_bad, stop_at_error=stop_at_error)
        if first and (rows or as_json):
            print_predictions(rows, evaluator.title, as_json=as_json)
        for message in bad if first else []:
            errors.print(f"uip: {message}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        if output is not None and first:
            errors.print(f"{written.report}, {len(rows)} structures", markup=False, highlight=False, soft_wrap=True)
    if reason:
        raise typer.Exit(reason)


def frames_of(files: list[str], kind: str | None, species: list[str]) -> Iterator[Any]:
    """The structures of all files, as `Frame`."""
    from uip.data.read import read_atoms
    from uip.inference.stream import Frame

    for file in files:
        for number, atoms in enumerate(read_atoms(file, kind=kind, species=species)):
            yield Frame(file, number, atoms)


def _collect(
    results: Iterator[Any], file: GrowingFile, *, skip_bad: bool, stop_at_error: bool
) -> tuple[list[dict[str, Any]], list[str], int]:
    """Rows of the table, messages of structures without one, and the exit code; writes each structure at once.

    An error that is not of one structure ends the loop, or is raised with `stop_at_error`.
    """
    from uip.inference.stream import Failure

    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    with file:
        try:
            for frame, result in track(results, "evaluating", console=errors, transient=True):
                if isinstance(result, Failure):
                    bad.append(f"{frame.file}, structure {frame.number}: {result.message}")
                    if not skip_bad:
                        return rows, bad, 1
                    continue
                rows.append(prediction_row(frame, result))
                file.write(with_results(frame.atoms, result))
            file.finish()
        except USER_ERRORS as error:
            if stop_at_error:
                raise
            return rows, [*bad, str(error)], 1
        except KeyboardInterrupt:
            return rows, [*bad, f"interrupted after {len(rows)} structures"], 130
    return rows, bad, 0


def evaluate(
    model: Annotated[str, typer.Argument(help="A published name, a checkpoint, or an exported file.")],
    data: Annotated[Path, typer.Argument(help="Labelled structures, in any format that ASE reads.")],
    group_by: Annotated[
        str | None, typer.Option(help="'formula', 'elements', 'size' or an info key: one table part a group.")
    ] = None,
    plot: Annotated[Path, typer.Option(help="The parity plot (.png, .svg, .pdf).")] = Path("parity.png"),
    uncertainty_plot: Annotated[
        Path | None, typer.Option(help="Of a calibrated model: real against predicted errors (.png, .svg, .pdf).")
    ] = None,
    head: Head = None,
    device: Device = None,
    dtype: Dtype = None,
    trusted: Trusted = None,
    energy_key: EnergyKey = "",
    forces_key: ForcesKey = "",
    stress_key: StressKey = "",
    as_json: AsJson = False,
) -> None:
    """Errors of a model on labelled structures: MAE and RMSE by property and by group, and a parity plot.

    Of a calibrated model (uip calibrate) also how well predicted uncertainties describe the errors of energies.
    """
    with user_errors():
        from uip.data.dataset import labelled
        from uip.data.labels import LabelKeys
        from uip.inference.evaluator import load_evaluator, predict
        from uip.inference.metrics import compare, error_table, group_of, parity_plot

        for figure in (plot, uncertainty_plot):
            check_output(figure, (".png", ".svg", ".pdf"), force=True)
        evaluator = load_evaluator(model, head=head, device=device, dtype=dtype, trusted=trusted)
        if uncertainty_plot is not None and "energy_uncertainty" not in evaluator.properties:
            raise ValueError(
                f"`--uncertainty-plot` needs a calibrated model, but '{evaluator.name}' has no uncertainties; run "
                "'uip calibrate' first, or leave it out"
            )
        named, structures = checked_structures([data], evaluator)
        frames = [atoms for _, atoms in named]
        keys = LabelKeys(energy_key, forces_key, stress_key)
        both = zip(frames, structures, strict=True)
        labels = [label for _, _, label in labelled(data, both, keys, checked=True, option="--{}-key")]
        groups = [group_of(atoms, group_by) for atoms in frames]
        progress = track(predict(evaluator, structures), "evaluating", len(frames), console=errors, transient=True)
        predictions = list(progress)
        pairs = [
            compare(label, prediction, len(atoms))
            for atoms, label, prediction in zip(frames, labels, predictions, strict=True)
        ]
        table = error_table(zip(groups, pairs, strict=True))
        parity_plot(pairs, table, plot, f"{evaluator.name} on {data.name}")
        found = _reliability(predictions, labels, uncertainty_plot, f"{evaluator.name} on {data.name}")
        print_errors(table, f"{evaluator.title} on {data.name}", plot, found, as_json=as_json)


def _reliability(predictions: list[Any], labels: list[Any], figure: Path | None, title: str) -> Any:
    """How well uncertainties describe the errors of energies, drawn to `figure`; None without either."""
    import numpy as np

    from uip.inference.reliability import reliability, reliability_plot

    rows = [
        (float(prediction["energy"] - label["energy"]) / atoms, float(prediction["energy_uncertainty"]) / atoms)
        for prediction, label in zip(predictions, labels, strict=True)
        if "energy" in label and "energy_uncertainty" in prediction
        for atoms in [len(prediction["node_energy"])]
    ]
    if not rows:
        return None
    error, sigma = np.array(rows).T
    if figure is not None:
        reliability_plot(error, sigma, figure, title)
    return reliability(error, sigma)
