"""Configurations: a dataclass per thing, every default in its field, an unknown key an error."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: "; did you mean 'x'?" or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def from_dict(cls: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """Build the dataclass `cls` from plain values.

    Raises:
        ValueError: unknown key (with a suggestion), or a value of another type than the default's.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            raise ValueError(f"unknown key '{path}'{suggestion(key, fields)}")
        default = fields[key].default
        expected = (int, float) if isinstance(default, float) else type(default)
        typed = default is not dataclasses.MISSING and default is not None
        fits = isinstance(value, expected) and isinstance(value, bool) == isinstance(default, bool)
        if typed and not fits:
            raise ValueError(f"'{path}' must be {type(default).__name__}, got {value!r}")
    return cls(**values)
