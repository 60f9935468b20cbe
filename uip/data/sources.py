"""Files of a data set: named one by one, by patterns, or by folders."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from uip.config import existing_file

GROUP_BYTES = 16 << 20
"""Small files are read together until they have this size."""


def find_files(sources: Iterable[str], output: Path) -> list[Path]:
    """The files of all sources, each once, in the order of the sources; those of a folder or pattern by name.

    Args:
        sources: files; patterns like "data/*.xyz" and "data/**/*.json.gz"; folders with all files below them, except
            hidden ones.
        output: a folder that must not contain a source.

    Raises:
        FileNotFoundError: no such file, or none that fits.
        ValueError: a source in `output`.
    """
    found = [path for source in sources for path in _files_of(source)]
    files = list(dict.fromkeys(path.resolve() for path in found))
    inside = [path for path in files if output.resolve() in path.parents]
    if inside:
        raise ValueError(
            f"the data store must lie outside its sources, but {inside[0]} is in it; choose another folder"
        )
    return files


def _files_of(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        below = (name for name in path.rglob("*") if not any(p.startswith(".") for p in name.relative_to(path).parts))
        found = sorted(name for name in below if name.is_file())
    elif path.exists() or not glob.has_magic(source):
        found = [existing_file(path)]
    else:
        found = sorted(Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file())
    if not found:
        raise FileNotFoundError(f"no files in {source}")
    return found


def group_files(files: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Consecutive files in groups of at least `GROUP_BYTES`, so that many small files make few shards."""
    groups: list[list[Path]] = [[]]
    total = 0
    for path in files:
        if total >= GROUP_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(path)
        total += path.stat().st_size
    return [tuple(group) for group in groups if group]
