"""`uip relax`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from uip.cli.errors import errors, user_errors
from uip.cli.options import AsJson, Device, Dtype, Format, Head, Models, Species, Trusted, check_output, species_of
from uip.cli.output import GrowingFile, check_other_file
from uip.cli.tables import print_relaxed


def relax(
    files: Annotated[
        list[str], typer.Argument(help="Structures, in any format that ASE reads; FILE@0:2 for some frames.")
    ],
    model: Models = ["chgnet-0.3.0"],  # noqa: B006, typer copies it
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write an extxyz file of relaxed structures.")
    ] = None,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    fmax: Annotated[float, typer.Option(help="Largest force of a relaxed structure, eV/A.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 500,
    optimizer: Annotated[str, typer.Option(help="fire, or lbfgs: often fewer steps.")] = "fire",
    pressure: Annotated[float, typer.Option(help="With --cell: external pressure, GPa.")] = 0.0,
    head: Head = None,
    device: Device = None,
    dtype: Dtype = None,
    kind: Format = None,
    species: Species = None,
    trusted: Trusted = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Relax structures, one after the other: a table, and an extxyz file that grows with each of them.

    Structures that fail are named and left out; those that do not converge are named and written with converged=F. In
    both cases the exit code is 1.
    """
    with user_errors():
        from uip.calculator import Calculator
        from uip.relax import check_arguments

        settings = {"cell": cell, "fmax": fmax, "steps": steps, "optimizer": optimizer, "pressure": pressure}
        check_arguments(**settings)  # type: ignore[arg-type]
        check_output(output, (".xyz", ".extxyz"), force=force)
        check_other_file(output, files)
        calculator = Calculator(model, head=head, device=device, dtype=dtype, trusted=trusted)
        written = GrowingFile(output)
        rows, bad = _collect(_relaxed(files, kind, species_of(species), calculator, settings), written)
        if rows or as_json:
            print_relaxed(rows, calculator.evaluator.title, as_json=as_json)
        for message in bad:
            errors.print(f"uip: {message}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        if output is not None:
            errors.print(f"{written.report}, {len(rows)} structures", markup=False, highlight=False, soft_wrap=True)
    if bad:
        raise typer.Exit(1)


Result = tuple[str, int, Any]
"""File, number of the structure in it, and a `Relaxed` or the message of a failure."""


def _relaxed(
    files: list[str], kind: str | None, species: list[str], calculator: Any, settings: dict[str, Any]
) -> Iterator[Result]:
    from uip.data.read import read_atoms
    from uip.relax import relax as relax_atoms

    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        for file in files:
            for number, atoms in enumerate(read_atoms(file, kind=kind, species=species)):
                title = f"{file}, structure {number}, {atoms.get_chemical_formula()}"

                def report(step: int, force: float, title: str = title) -> None:
                    progress.update(task, description=f"{title}: step {step}, max force {force:.3f} eV/A")

                try:
                    yield file, number, relax_atoms(atoms, calculator, report=report, **settings)
                except (ValueError, FloatingPointError) as error:
                    yield file, number, str(error)


def _collect(results: Iterator[Result], file: GrowingFile) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the table, and messages of structures that failed or did not converge; writes each at once."""
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    with file:
        for name, number, result in results:
            if isinstance(result, str):
                bad.append(f"{name}, structure {number}: {result}")
                continue
            rows.append(_row(name, number, result))
            if not result.converged:
                bad.append(
                    f"{name}, structure {number}: not converged, {result.max_force:.3f} eV/A after {result.steps} "
                    "steps; use more --steps, a larger --fmax, or another --optimizer"
                )
            result.atoms.info["converged"] = result.converged
            file.write(result.atoms)
        file.finish()
    return rows, bad


def _row(file: str, number: int, result: Any) -> dict[str, Any]:
    return {
        "file": file,
        "number": number,
        "formula": result.atoms.get_chemical_formula(),
        "atoms": len(result.atoms),
        "converged": result.converged,
        "steps": result.steps,
        "energy": float(result.atoms.get_potential_energy()),
        "energy_change": result.energy_change,
        "max_force": result.max_force,
        "volume_change": result.volume_change,
    }
