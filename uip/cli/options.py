"""Options and checks that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Models = Annotated[
    list[str], typer.Option("--model", "-m", help="A name, a checkpoint or an exported file; several: a committee.")
]
Head = Annotated[str | None, typer.Option(help="Level of theory, of a checkpoint with several heads.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, or bfloat16 (AllScAIP).")]
Trusted = Annotated[
    Path | None, typer.Option(help="A file of public keys; one of them must have signed the exported file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Format = Annotated[
    str | None, typer.Option("--format", help="ASE's name of the input format, e.g. lammps-data; default: found out.")
]
Species = Annotated[
    str | None, typer.Option(help="Elements of the types 1, 2, ... of a LAMMPS file that does not name them: 'Si O'.")
]

EnergyKey = Annotated[str, typer.Option(help="Entry of the file with the energy, e.g. REF_energy; default: ASE's.")]
ForcesKey = Annotated[str, typer.Option(help="Entry of the file with the forces.")]
StressKey = Annotated[str, typer.Option(help="Entry of the file with the stress, or the virial.")]


def species_of(text: str | None) -> list[str]:
    """The elements of `--species`, separated by spaces or commas."""
    return (text or "").replace(",", " ").split()


def check_output(path: Path | None, suffixes: tuple[str, ...], *, force: bool) -> None:
    """Refuse what would fail or destroy something after the long work is done."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise ValueError(f"the output file must end in {' or '.join(suffixes)}, got '{path}'")
    if not path.parent.is_dir():
        raise ValueError(f"the folder of the output file must exist, got '{path.parent}'; make it first")
    if path.exists() and not force:
        raise ValueError(f"'{path}' exists; choose another name, or add --force to replace it")


def checked_structures(
    files: list[Path], evaluator: Any, kind: str | None = None, species: list[str] | None = None
) -> tuple[list[tuple[Path, Any]], list[Any]]:
    """Files with their atoms, and structures; a mistake in any of them is found before the work begins."""
    from uip.data.read import read_structures

    frames, structures = [], []
    for file in files:
        for number, (atoms, structure) in enumerate(read_structures(file, kind=kind, species=species or ())):
            try:
                evaluator.check_elements(structure.atomic_numbers)
            except ValueError as error:
                raise ValueError(f"{file}, structure {number}: {error}") from error
            frames.append((file, atoms))
            structures.append(structure)
    return frames, structures
