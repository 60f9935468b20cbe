"""A training config as a full TOML file: every setting with its meaning, generated from the dataclasses."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from uip.config import field_documentation
from uip.train.config import DataConfig, TrainConfig

WIDTH = 120
TABLES = ("model", "data", "loss", "optim", "run")
"""The tables of the file, in order."""
EXAMPLE = TrainConfig(DataConfig(train=("labelled.xyz",)))
"""The defaults; `data.train` has none."""


def settings_text(config: TrainConfig | None = None) -> str:
    """`config` as TOML, None: the defaults; reading it gives the same settings."""
    config = config or EXAMPLE
    tables = {name: getattr(config, name) for name in TABLES}
    tables |= {f"data.sets.{json.dumps(name)}": choice for name, choice in config.data.sets.items()}
    return "\n".join(_table(name, settings) for name, settings in tables.items())


def _table(name: str, settings: Any) -> str:
    documentation = field_documentation(type(settings))
    lines = [f"# {line}" for line in _wrapped((type(settings).__doc__ or "").strip())] + [f"[{name}]"]
    for field in dataclasses.fields(settings):
        lines += [f"# {line}" for line in _wrapped(documentation.get(field.name, ""))]
        value = getattr(settings, field.name)
        # TOML has no null: a setting that is left out is shown as a comment; so is one that has tables of its own
        lines.append(
            f"# {field.name} =" if value is None or field.name == "sets" else f"{field.name} = {toml_value(value)}"
        )
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH - 2)


def toml_value(value: Any) -> str:
    """One value; JSON's strings, numbers and booleans are TOML's too."""
    if isinstance(value, Mapping):
        items = ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return json.dumps(value)
