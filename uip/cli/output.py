"""Files of results that grow with each structure, and never replace anything before there is a result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any


def check_other_file(output: Path | None, inputs: Iterable[str]) -> None:
    """Raises ValueError if the output is one of the files that are read, under whatever name."""
    if output is None or not output.exists():
        return
    for name in inputs:
        for path in (Path(name), Path(name.rpartition("@")[0])):  # FILE@0:2
            if path.is_file() and path.samefile(output):
                raise ValueError(f"the output must be another file than the input '{name}'; choose another name")


class GrowingFile:
    """An extxyz file, made when its first structure is written. Beside a file of the same name it grows under another
    name, and replaces that file when it is complete: `finish`."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._place: Path | None = None

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, atoms: Any) -> None:
        """Append a structure, at once; without a path do nothing."""
        from ase.io.extxyz import write_extxyz

        if self.path is None:
            return
        if self._file is None:
            self._place = self.path.with_name(f"{self.path.stem}.part{self.path.suffix}")
            if not self.path.exists():
                self._place = self.path
            self._file = self._place.open("w", encoding="utf-8")
        write_extxyz(self._file, [atoms])
        self._file.flush()

    def finish(self) -> None:
        """All structures are written."""
        if self._file is not None and self._place is not None and self.path is not None:
            self._file.close()
            self._place.replace(self.path)

    @property
    def report(self) -> str:
        """Where the structures are."""
        if self._place is None:
            return f"nothing written to {self.path}"
        unchanged = "" if self._place == self.path or not self._place.exists() else f"; {self.path} is unchanged"
        return f"written: {self._place if unchanged else self.path}{unchanged}"
