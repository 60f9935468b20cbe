"""Configs as dataclasses: defaults are in the fields, an unknown key is an error."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: "; did you mean 'x'?", or the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known) or 'none'}"


def existing_file(path: Path | str) -> Path:
    """`path`, which must be a file."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return path


def whole_number(name: str, value: Any, of: str = "") -> int:
    """`value` as an integer; ValueError if it is not a whole number."""
    with suppress(TypeError, ValueError, OverflowError):
        if int(value) == float(value):
            return int(value)
    raise ValueError(f"`{name}`{of} must be a whole number, got {value!r}")


def from_dict(cls: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """Build the dataclass `cls` from plain values; a table becomes the nested dataclass of its field.

    Raises:
        ValueError: unknown key (with a suggestion), or a value of another type than the default's.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    built: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            raise ValueError(f"unknown key '{path}'{suggestion(key, fields)}")
        factory = fields[key].default_factory
        default = fields[key].default if factory is dataclasses.MISSING else factory()
        expected: Any = (int, float) if isinstance(default, float) else type(default)
        typed = default is not dataclasses.MISSING and default is not None
        nested = dataclasses.is_dataclass(default)
        if nested or isinstance(default, tuple):
            expected = Mapping if nested else (list, tuple)
        fits = isinstance(value, expected) and isinstance(value, bool) == isinstance(default, bool)
        if typed and not fits:
            kind = "a table" if nested else "a list" if isinstance(default, tuple) else type(default).__name__
            raise ValueError(f"'{path}' must be {kind}, got {value!r}")
        built[key] = value
        if nested:
            built[key] = from_dict(type(default), value, path)
        elif isinstance(default, tuple):
            built[key] = tuple(value)
    return cls(**built)


def field_documentation(cls: type[Any]) -> dict[str, str]:
    """The documentation of each field: the string literal below it."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = str(ast.literal_eval(text.value))
    return found
