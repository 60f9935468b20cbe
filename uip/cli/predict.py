"""`uip predict` and `uip eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from uip.cli.errors import all_ranks, errors, user_errors
from uip.cli.options import AsJson, Device, Dtype, Model, check_output, checked_structures
from uip.cli.tables import console, print_errors, print_predictions, write_predictions


def predict(
    files: Annotated[list[Path], typer.Argument(help="Structures, in any format that ASE reads.")],
    model: Model = "chgnet-0.3.0",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write an extxyz file with results.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Energy, forces, stress and magnetic moments of structures: a table, and an extxyz file.

    Under mpiexec the ranks share each structure.
    """
    with user_errors(), all_ranks() as ranks:
        from uip.inference.domain import predict_distributed
        from uip.inference.evaluator import load_evaluator, predict

        check_output(output, (".xyz", ".extxyz"), force=force)
        evaluator = load_evaluator(model, device=device, dtype=dtype)
        frames, structures = checked_structures(files, evaluator)
        predictions = (
            predict(evaluator, structures)
            if ranks is None
            else (predict_distributed(evaluator, structure, ranks) for structure in structures)
        )
        results = list(track(predictions, "evaluating", len(frames), console=errors, transient=True))
        if ranks is not None and ranks.rank > 0:
            return
        if output is not None:
            write_predictions(output, [atoms for _, atoms in frames], results)
        print_predictions(frames, results, evaluator.title)
        if output is not None:
            console.print(f"written: {output}", markup=False, highlight=False, soft_wrap=True)


def evaluate(
    model: Annotated[str, typer.Argument(help="A published name, a checkpoint, or an exported file.")],
    data: Annotated[Path, typer.Argument(help="Labelled structures, in any format that ASE reads.")],
    group_by: Annotated[
        str | None, typer.Option(help="'formula', 'elements', 'size' or an info key: one table part a group.")
    ] = None,
    plot: Annotated[Path, typer.Option(help="The parity plot (.png, .svg, .pdf).")] = Path("parity.png"),
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Errors of a model on labelled structures: MAE and RMSE by property and by group, and a parity plot."""
    with user_errors():
        from uip.data.labels import labels_from_atoms
        from uip.inference.evaluator import load_evaluator, predict
        from uip.inference.metrics import compare, error_table, group_of, parity_plot

        check_output(plot, (".png", ".svg", ".pdf"), force=True)
        evaluator = load_evaluator(model, device=device, dtype=dtype)
        named, structures = checked_structures([data], evaluator)
        frames = [atoms for _, atoms in named]
        labels = [labels_from_atoms(atoms) for atoms in frames]
        if not any(labels):
            raise ValueError(f"{data} must carry labels (energy, forces, stress or magmoms), but no structure has any")
        groups = [group_of(atoms, group_by) for atoms in frames]
        predictions = predict(evaluator, structures)
        progress = track(predictions, "evaluating", len(frames), console=errors, transient=True)
        pairs = [
            compare(label, prediction, len(atoms))
            for atoms, label, prediction in zip(frames, labels, progress, strict=True)
        ]
        table = error_table(zip(groups, pairs, strict=True))
        parity_plot(pairs, table, plot, f"{evaluator.potential.card.name} on {data.name}")
        print_errors(table, f"{evaluator.title} on {data.name}", plot, as_json=as_json)
