"""`uip train` and `uip config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from uip.cli.errors import debug_is_on, user_errors


class WithSettings(TyperCommand):
    """A command whose help ends with all settings of a run."""

    def get_help(self, ctx: Any) -> str:
        from uip.train.template import settings_text

        # with rich, typer prints the help itself and returns nothing here
        return f"{super().get_help(ctx)}\nAll settings of RUN.toml with their defaults:\n\n{settings_text()}"


def train(
    config: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The settings of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", help="Train N models with different seeds, for a committee.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting, e.g. optim.learning_rate=1e-3."),
    ] = None,
) -> None:
    """Train a potential: the same as `python -m uip.train RUN.toml`.

    For several processes: torchrun --nproc-per-node 4 -m uip.train RUN.toml
    """
    from uip.train.__main__ import run

    raise typer.Exit(run(config, overrides or [], resume=resume, seeds=seeds, debug=debug_is_on()))


def config(
    file: Annotated[Path | None, typer.Argument(metavar="[RUN.toml]", help="A run; left out: the defaults.")] = None,
) -> None:
    """Print a full training config: every setting with its meaning, and its default or the value in RUN.toml."""
    with user_errors():
        from uip.train.config import read_config
        from uip.train.template import settings_text

        typer.echo(settings_text(None if file is None else read_config(file)))
