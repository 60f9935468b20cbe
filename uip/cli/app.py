"""The `uip` command: one file for each group of commands."""

from __future__ import annotations

from typing import Annotated

import typer

import uip
from uip.cli.calibrate import calibrate
from uip.cli.data import FileOrCommand, build, describe
from uip.cli.doctor import doctor
from uip.cli.errors import show_tracebacks
from uip.cli.export import export, fairchem, verify
from uip.cli.ipi import ipi
from uip.cli.models import lammps_plugin_path, models, openmm_plugin_path
from uip.cli.predict import evaluate, predict
from uip.cli.relax import relax
from uip.cli.select import select
from uip.cli.train import WithSettings, config, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
data = typer.Typer(
    no_args_is_help=True, cls=FileOrCommand, help="Describe a data set (uip data FILE), or build a data store of it."
)
imports = typer.Typer(no_args_is_help=True, help="Turn a checkpoint of another code into one of uip.")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"uip {uip.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Universal interatomic potentials: list, predict, relax, evaluate, export, train."""
    show_tracebacks(debug)


app.command()(models)
app.command()(doctor)
app.command()(predict)
app.command()(relax)
app.command()(select)
app.command("eval")(evaluate)
app.command()(calibrate)
app.command()(ipi)
app.command()(export)
app.command()(verify)
app.add_typer(imports, name="import")
imports.command()(fairchem)
# with a callback the group stays a group, although it has one command
imports.callback()(lambda: None)
app.add_typer(data, name="data")
data.command()(describe)
data.command()(build)
app.command(cls=WithSettings)(train)
app.command()(config)
app.command("openmm-plugin")(openmm_plugin_path)
app.command("lammps-plugin")(lammps_plugin_path)
