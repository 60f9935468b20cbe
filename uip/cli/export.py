"""`uip export` and `uip import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from uip.cli.errors import ended_by_exception, errors, user_errors
from uip.cli.options import Head, check_output
from uip.cli.tables import console


def export(
    model: Annotated[str, typer.Argument(help="A published name or a checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="model.pt2 (compiled) or model.pt (TorchScript).")],
    head: Head = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, or bfloat16 (AllScAIP).")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda: where the program will run.")] = "cpu",
    recompute: Annotated[bool, typer.Option("--recompute", help="AllScAIP: a third of the memory, more time.")] = False,
    native: Annotated[bool, typer.Option("--native", help="Compile for this machine's processor alone.")] = False,
    target: Annotated[str, typer.Option(help="engine, or torchforce: for stock openmm-torch.")] = "engine",
    structure: Annotated[
        Path | None, typer.Option(help="With --target torchforce: the atoms, and whether they are periodic.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="A private ed25519 key (ssh-keygen -t ed25519) to sign with.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Write the program that LAMMPS and OpenMM load: energy and gradient, compiled, with its own self-test."""
    with user_errors(), ended_by_exception():
        from uip.checkpoint import load_model
        from uip.program.writer import export_model

        check_output(output, (".pt2", ".pt"), force=force)
        _check_target(target, structure, device, sign)
        loaded = load_model(
            model, head=head, dtype="float64"
        )  # constants are computed in it, and rounded only in the program
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
                sign=sign,
                progress=lambda step: status.update(f"{loaded.card.name}: {step} (one to three minutes in all)"),
            )
        console.print(f"written: {output}", markup=False, highlight=False, soft_wrap=True)


def verify(
    file: Annotated[Path, typer.Argument(help="A file written by uip export.")],
    trusted: Annotated[Path, typer.Argument(help="Public keys, one a line: ssh-ed25519 KEY COMMENT.")],
) -> None:
    """Check that one of the keys signed an exported file, and that it was not changed since. Nothing in it is run."""
    with user_errors():
        from uip.program.signature import verify as check_signature

        console.print(
            f"{file}: signed by {check_signature(file, trusted)}", markup=False, highlight=False, soft_wrap=True
        )


def _check_target(target: str, structure: Path | None, device: str, sign: Path | None) -> None:
    if target not in ("engine", "torchforce"):
        raise ValueError(f"--target must be engine or torchforce, got '{target}'")
    if (structure is None) == (target == "torchforce"):
        raise ValueError(
            "--target torchforce needs --structure FILE for the elements of the atoms, and nothing else does"
        )
    if target == "torchforce" and sign is not None:
        raise ValueError("--sign is of files for engines: stock openmm-torch checks no signatures; leave it out")
    if target == "torchforce" and device != "cpu":
        raise ValueError("--target torchforce moves to OpenMM's device by itself; leave --device out")


def _export_torchforce(model: Any, output: Path, structure: Path, dtype: str) -> None:
    from uip.data.read import read_structures
    from uip.program.torchforce import export_torchforce

    atoms, _ = next(read_structures(structure))
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(f"OpenMM is periodic along all directions or none, but {structure} has {atoms.pbc.tolist()}")
    export_torchforce(model, output, atoms.numbers, periodic=bool(atoms.pbc.all()), dtype=dtype)
    console.print(f"written: {output}, for {atoms.symbols}", markup=False, highlight=False, soft_wrap=True)


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

        check_output(output, (".ckpt",), force=force)
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
