"""`uip select`."""

from __future__ import annotations

from math import isinf, isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from uip.cli.errors import errors, user_errors
from uip.cli.options import AsJson, Device, Dtype, Format, Head, Models, Species, Trusted, check_output, species_of
from uip.cli.output import check_other_file
from uip.cli.predict import frames_of
from uip.cli.tables import print_selected


def select(
    files: Annotated[
        list[str], typer.Argument(help="Structures, in any format that ASE reads; FILE@::10 for some frames.")
    ],
    count: Annotated[int, typer.Option("--count", "-n", help="Number of structures to select.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="An extxyz file of the selected structures.")],
    model: Models = ["chgnet-0.3.0"],  # noqa: B006, typer copies it
    smallest: Annotated[float, typer.Option("--min", help="Smallest score to select, eV/A or eV/atom.")] = 0.0,
    largest: Annotated[float, typer.Option("--max", help="Largest score to select, eV/A or eV/atom.")] = float("inf"),
    head: Head = None,
    device: Device = None,
    dtype: Dtype = None,
    kind: Format = None,
    species: Species = None,
    trusted: Trusted = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Select the structures worth labelling: models are least certain of them, and they differ from each other.

    The score of a structure is the largest deviation of a force in a committee (eV/A), or the uncertainty of the
    energy of a calibrated model (eV/atom). Candidates have a score between --min and --max. Of the 5 n with the largest
    scores, n are taken by farthest-point sampling. With one model that is not calibrated: of all structures.
    """
    with user_errors():
        from uip.inference.committee import load_evaluators
        from uip.inference.selection import select as select_frames

        check_output(output, (".xyz", ".extxyz"), force=force)
        check_other_file(output, files)
        evaluator = load_evaluators(model, head=head, device=device, dtype=dtype, trusted=trusted)
        frames = track(frames_of(files, kind, species_of(species)), "evaluating", console=errors, transient=True)
        found = select_frames(evaluator, frames, count, smallest=smallest, largest=largest)
        for message in found.failures:
            errors.print(f"uip: left out: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if not found.chosen:
            raise ValueError(
                "no structure can be selected; widen the range from --min to --max, or give other structures"
            )
        _write(found.chosen, output)
        print_selected([_row(selected) for selected in found.chosen], evaluator.title, as_json=as_json)
        text = f"written: {output}, {len(found.chosen)} of {found.num_candidates} candidates"
        errors.print(text, markup=False, highlight=False, soft_wrap=True)


def _write(chosen: list[Any], output: Path) -> None:
    """Without results: labels come from elsewhere."""
    from ase.io import write

    structures = []
    for selected in chosen:
        atoms = selected.frame.atoms.copy()
        atoms.info |= {name: value for name, value in _row(selected).items() if name in ("file", "number")}
        structures.append(atoms)
    write(output, structures, format="extxyz")


def _row(selected: Any) -> dict[str, Any]:
    return {
        "file": selected.frame.file,
        "number": selected.frame.number,
        "formula": selected.frame.atoms.get_chemical_formula(),
        selected.score_name: None if isnan(selected.score) else selected.score,
        "distance": None if isinf(selected.distance) else selected.distance,
    }
