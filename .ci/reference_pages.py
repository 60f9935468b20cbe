"""Pages of docs/reference that are made from the program: settings of training runs, and commands.

python .ci/reference_pages.py            writes them
python .ci/reference_pages.py --check    returns 1 if one of them is stale

Settings come from the dataclasses of `uip/train/config.py` and of the architectures, as those of `uip config`; commands
from the app itself, as `uip --help`.
"""

from __future__ import annotations

import dataclasses
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from uip.cli.app import app
from uip.config import field_documentation
from uip.models.allscaip import AllScAIPConfig
from uip.models.chgnet import CHGNetConfig
from uip.train.config import ADJUSTABLE, is_changeable
from uip.train.data_sets import SetConfig
from uip.train.template import EXAMPLE, TABLES, toml_value

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by `make reference`; do not edit. -->\n\n"
KINDS = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "bool | None": "true or false",
    "tuple[str, ...]": "list of strings",
    "tuple[int, ...]": "list of integers",
    "dict[str, float]": "table of numbers",
    "dict[str, Any]": "table",
    "dict[str, SetConfig]": "tables",
}
"""Types of settings, in words."""

SETTINGS = """# Settings of a training run

All keys of the TOML file of `uip train`. `uip config` prints them as a complete file with defaults; see
[Training](../training.md) for what they are used for. Every key may be left out, except `data.train`. On the command
line, `--set data.batch_size=8` replaces a setting of the file.
"""

COMMANDS = """# Commands

`uip COMMAND --help` prints the same. `uip --debug COMMAND ...` shows the traceback of an error, `uip --version` the
version.
"""


def settings_page() -> str:
    """One section for each table of the TOML file, one heading for each key."""
    parts = [SETTINGS]
    parts += [_table(name, type(getattr(EXAMPLE, name))) for name in TABLES]
    parts.append(_table("data.sets.NAME", SetConfig))
    for kind, config in (("chgnet", CHGNetConfig), ("allscaip", AllScAIPConfig)):
        parts.append(_table("architecture", config, title=f'model.architecture of `kind = "{kind}"`'))
    return _page("\n".join(parts))


def _table(name: str, cls: type[Any], *, title: str = "") -> str:
    documentation = field_documentation(cls)
    parts = [f"## {title or f'[{name}]'}", "", _text(cls.__doc__ or ""), ""]
    for field in dataclasses.fields(cls):
        key = f"{name}.{field.name}"
        parts += [f"### `{key}`", "", f"*{_kind_and_default(field)}*", "", _text(documentation[field.name])]
        if is_changeable(key) or key in ADJUSTABLE:
            parts.append("It may change when a run is resumed.")
        parts.append("")
    return "\n".join(parts)


def _kind_and_default(field: dataclasses.Field[Any]) -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if field.name == "train":
        return f"{KINDS[str(field.type)]}, required"
    if default is None:
        return f"{KINDS[str(field.type)]}, no default"
    return f"{KINDS[str(field.type)]}, default `{toml_value(default)}`"


def commands_page() -> str:
    """One section for each command: what it does, its arguments and options."""
    parts = [COMMANDS]
    for name, command in _commands("uip", typer.main.get_command(app)):
        parts += [f"## `{name}`", "", _text(command.help or ""), ""]
        arguments = [_names(p).strip("`") for p in command.params if p.param_type_name == "argument"]
        parts += [f"`{' '.join([name, '[OPTIONS]', *arguments])}`", ""]
        shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        if shown:
            rows = [f"| {_names(parameter)} | {_meaning(parameter)} |" for parameter in shown]
            parts += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return _page("\n".join(parts))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The commands below a group, with the words that call them."""
    for word, below in getattr(command, "commands", {}).items():
        if getattr(below, "commands", None):
            yield from _commands(f"{name} {word}", below)
        else:
            yield f"{name} {word}", below


def _names(parameter: Any) -> str:
    """Names, and for options with a value a word for it: that of the option, as in `--energy-key KEY`."""
    if parameter.param_type_name == "argument":
        word = parameter.metavar or parameter.name.upper() + ("..." if parameter.nargs != 1 else "")
        return f"`{word}`" if parameter.required or word.startswith("[") else f"`[{word}]`"
    names = sorted(parameter.opts, key=lambda name: name.startswith("--"))
    value = "" if parameter.is_flag else f" {parameter.metavar or names[-1].split('-')[-1].upper()}"
    return ", ".join([*(f"`{name}`" for name in names[:-1]), f"`{names[-1]}{value}`"])


def _meaning(parameter: Any) -> str:
    default = parameter.default() if callable(parameter.default) else parameter.default
    text = _text(parameter.help or "").rstrip(".") + "."
    if parameter.param_type_name == "argument" or default is None or default is False or default in ("", (), []):
        return f"{text} Required." if parameter.required and parameter.param_type_name == "option" else text
    return f"{text} Default: `{' '.join(map(str, default)) if isinstance(default, (list, tuple)) else default}`."


def _text(text: str) -> str:
    """Paragraphs of a docstring without their line breaks, as Markdown: outside of `code`, no character is a sign."""
    parts = re.split(r"(`[^`]*`)", text.replace("\b", ""))
    parts[::2] = [re.sub(r"([*|\[\]])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in "".join(parts).split("\n\n"))


def _page(text: str) -> str:
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n{NOTE}{rest.rstrip()}\n"


PAGES = {"settings.md": settings_page, "commands.md": commands_page}


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    """Write the pages; with --check compare them."""
    stale = []
    for name, text in PAGES.items():
        path = folder / name
        if "--check" not in arguments:
            path.write_text(text(), encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text():
            stale.append(f"docs/reference/{name} is not what the program says; run 'make reference'")
    sys.stderr.write("".join(f"{line}\n" for line in stale))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
