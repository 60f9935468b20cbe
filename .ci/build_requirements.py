"""Prints what pyproject.toml needs to build, one requirement a line, for `pip install --no-build-isolation`."""

from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
print("\n".join([*pyproject["build-system"]["requires"], "cmake>=3.24", "ninja"]))
