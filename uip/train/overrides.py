"""Settings from the command line, `--set optim.learning_rate=1e-3`, on top of those of a TOML file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The tables `values` with settings replaced by `overrides`, each "table.key=value".

    A value is TOML, or text without quotation marks.

    Raises:
        ValueError: not of this form, or a key in a setting that is not a table.
    """
    result = dict(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or len(path) < 2 or not all(path):
            raise ValueError(f"--set must be like optim.learning_rate=1e-3, got '{text}'")
        result = _replaced(result, path, _parsed(value.strip()), key)
    return result


def _replaced(table: Mapping[str, Any], path: list[str], value: Any, key: str) -> dict[str, Any]:
    """A copy of `table` with one setting replaced."""
    if len(path) == 1:
        return {**table, path[0]: value}
    inner = table.get(path[0], {})
    if not isinstance(inner, Mapping):
        raise ValueError(f"--set {key}: '{path[0]}' must be a table, but is {inner!r}")
    return {**table, path[0]: _replaced(inner, path[1:], value, key)}


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
