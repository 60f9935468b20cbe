"""`uip doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.table import Table

from uip.cli.errors import errors
from uip.cli.options import AsJson
from uip.cli.tables import console

STYLES = {"works": "green", "absent": "yellow", "broken": "bold red"}


def doctor(as_json: AsJson = False) -> None:
    """Report what works on this machine and what does not, and why; include it in a bug report.

    The exit code is 1 if a part is broken, 0 if optional parts are absent.
    """
    from uip.cli.environment import BROKEN, examine

    with errors.status("trying torch, LAMMPS and OpenMM"):
        findings = list(examine())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table = Table("part", "state", "version", "note")
        for finding in findings:
            state = f"[{STYLES[finding.state]}]{finding.state}[/]"
            table.add_row(finding.part, state, _plain(finding.version), _plain(finding.note))
        console.print(table)
    if any(finding.state == BROKEN for finding in findings):
        raise typer.Exit(1)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
