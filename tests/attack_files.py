"""Crafted model files that every reader must refuse: what is in them, and the message.

Each is an archive that was changed and given the right checksum again, as an attacker would: the checksum has no key.
`canary` is a file that code in the archive would create.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

Entries = list[tuple[str, bytes]]
"""Names without the folder of the archive, and contents."""

FOLDER = "data/aotinductor/model/"
CHECKSUM, RECORD = "extra/uip_sha256", "extra/uip"


def entries_of(path: Path) -> Entries:
    """All entries but the checksum."""
    with zipfile.ZipFile(path) as archive:
        split = [(name, name.partition("/")[2]) for name in archive.namelist()]
        return [(short, archive.read(name)) for name, short in split if short != CHECKSUM]


def checksum_of(entries: Entries) -> str:
    """What the export writes."""
    total = hashlib.sha256()
    for name, content in sorted(entries, key=lambda entry: entry[0].encode()):
        total.update(name.encode() + content)
    return total.hexdigest()


def archive_of(entries: Entries, *, root: str = "model", checksum: str | None = None, compress: bool = False) -> bytes:
    """A model file of these entries, with the right checksum or with `checksum`."""
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile warns of names that are written twice
        for name, content in [*entries, (CHECKSUM, (checksum or checksum_of(entries)).encode())]:
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), content, kind)
    return buffer.getvalue()


@cache
def library(canary: Path) -> bytes:
    """A shared library that creates `canary` as soon as it is loaded."""
    code = f'#include <fcntl.h>\n__attribute__((constructor)) static void run(void) {{ creat("{canary}", 0600); }}\n'
    target = canary.with_name("library.so")
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", target], input=code.encode(), check=True)
    return target.read_bytes()


def _replaced(entries: Entries, suffix: str, change: Callable[[bytes], bytes]) -> Entries:
    return [(name, change(content) if name.endswith(suffix) else content) for name, content in entries]


def _without(entries: Entries, suffix: str) -> Entries:
    return [(name, content) for name, content in entries if not name.endswith(suffix)]


def _record(entries: Entries, **changes: Any) -> Entries:
    def changed(content: bytes) -> bytes:
        buffer = io.BytesIO()
        torch.save({**torch.load(io.BytesIO(content), weights_only=True), **changes}, buffer)
        return buffer.getvalue()

    return _replaced(entries, RECORD, changed)


class Run:
    """Unpickled, it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.canary), "w")


def _pickled(canary: Path) -> bytes:
    """A torch file whose pickle calls `open`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("record/data.pkl", pickle.dumps(Run(canary), protocol=2))
        archive.writestr("record/version", "3")
    return buffer.getvalue()


def _flags(canary: Path) -> bytes:
    return f'{{"compile_flags": {{"compiler": "touch {canary} #", "cflags": ["touch {canary}"]}}}}'.encode()


def _huge(data: bytes) -> bytes:
    """The size of the library in the directory of the archive becomes 4 GB."""
    place = data.index(b"PK\x01\x02")
    while b".so" not in data[place + 46 : place + 46 + struct.unpack_from("<H", data, place + 28)[0]]:
        place = data.index(b"PK\x01\x02", place + 1)
    return data[: place + 20] + struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0) + data[place + 28 :]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def compiled(path: Path, canary: Path) -> dict[str, tuple[bytes, str]]:
    """Attacks on the .pt2 `path`: bytes of the file, and a pattern of the message."""
    e, so = entries_of(path), library(canary)
    good = archive_of(e)
    (name,) = (name for name, _ in e if name.endswith(".so"))
    stem = name.removesuffix(".so")
    leads, twice, kind = "leads out of its folder", "twice", "archive written by 'uip export'|damaged"
    return {
        "dots": (archive_of([*e, (f"{FOLDER}../../../../{canary.name}", b"x")]), leads),
        "dots to an absolute place": (archive_of([*e, (f"{FOLDER}{'../' * 12}{str(canary)[1:]}", b"x")]), leads),
        "dots in the middle": (archive_of([*e, (f"data/../{canary.name}", b"x")]), leads),
        "absolute name": (archive_of([*e, (str(canary), b"x")]), leads),
        "one dot": (archive_of([*e, (f"{FOLDER}./a.so", so)]), leads),
        "backslashes": (archive_of([*e, (f"{FOLDER}..\\..\\a.so", so)]), leads),
        "a drive": (archive_of([*e, ("C:x", b"x")]), leads),
        "second library": (archive_of([*e, (f"{FOLDER}a.so", so)]), r"holds 2 libraries \(\.so\)"),
        "library elsewhere": (archive_of([*e, ("data/a.so", so)]), r"also holds 'data/a\.so'"),
        "library in a deeper folder": (archive_of([*e, (f"{FOLDER}a/a.so", so)]), "also holds"),
        "the same library twice": (archive_of([(name, so), *e]), twice),
        "record twice": (archive_of([*e, (RECORD, b"x")]), twice),
        "linker flags beside": (archive_of([*e, (f"{stem}_linker_flags.json", b"{}")]), "asks for a compiler"),
        "compile flags beside": (archive_of([*e, (f"{stem}_compile_flags.json", _flags(canary))]), "asks for a comp"),
        "compile flags alone": (
            archive_of([*_without(e, ".so"), (f"{stem}_compile_flags.json", _flags(canary))]),
            "asks for a compiler",
        ),
        "no library": (archive_of(_without(e, ".so")), r"holds 0 libraries \(\.so\)"),
        "library is text": (
            archive_of(_replaced(e, ".so", lambda _: b"#!/bin/sh\ntouch x\n")),
            "its library .* is none",
        ),
        "library is empty": (archive_of(_replaced(e, ".so", lambda _: b"")), "its library .* is none"),
        "library is cut": (archive_of(_replaced(e, ".so", lambda so: so[:4096])), "cut off"),
        "library is a link": (
            archive_of(_replaced(e, ".so", lambda _: str(canary).encode())),
            "its library .* is none",
        ),
        "nested archive": (archive_of([*e, ("data/inner.zip", good)]), r"also holds 'data/inner\.zip'"),
        "unknown entry": (archive_of([*e, ("run.py", b"import os")]), r"also holds 'run\.py'"),
        "another folder": (_two_roots(e), kind),
        "bomb": (archive_of([*e, (f"{FOLDER}a.cubin", bytes(200 << 20))], compress=True), "has a size of"),
        "huge size": (_huge(good), "has a size of|truncated or of another kind|damaged"),
        "half": (good[: len(good) // 2], kind),
        "end cut off": (good[:-30], kind),
        "only the end": (good[len(good) // 2 :], f"{kind}|has a size of"),
        "empty": (b"", kind),
        "text": (b"not a model\n" * 100, kind),
        "one bit": (_flipped(good), "damaged"),
        "wrong checksum": (archive_of(e, checksum="0" * 64), "damaged"),
        "record missing": (archive_of(_without(e, RECORD)), "not one written by 'uip export'"),
        "record runs code": (archive_of(_replaced(e, RECORD, lambda _: _pickled(canary))), "cannot load"),
        "record is text": (archive_of(_replaced(e, RECORD, lambda _: b"{}")), "cannot load"),
        "newer schema": (archive_of(_record(e, schema_version=99)), "written with schema 99"),
        "program of another kind": (archive_of(_without(e, "archive_format")), "also holds|libraries"),
    }


def _two_roots(entries: Entries) -> bytes:
    buffer = io.BytesIO(archive_of(entries))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/data.pkl", b"x")
    return buffer.getvalue()


def script(path: Path, canary: Path) -> dict[str, tuple[bytes, str]]:
    """The same of a .pt."""
    e = entries_of(path)
    return {
        "script: dots": (archive_of([*e, (f"code/../../{canary.name}", b"x")]), "leads out of its folder"),
        "script: a library": (archive_of([*e, (f"{FOLDER}a.so", library(canary))]), "libraries"),
        "script: marked as compiled": (archive_of([*e, ("archive_format", b"pt2")]), "also holds"),
        "script: unknown entry": (archive_of([*e, ("setup.py", b"x")]), r"also holds 'setup\.py'"),
        "script: twice": (archive_of([*e, ("data.pkl", b"x")]), "twice"),
        "script: record runs code": (archive_of(_replaced(e, RECORD, lambda _: _pickled(canary))), "cannot load"),
        "script: program runs code": (
            archive_of(_replaced(e, "data.pkl", lambda _: pickle.dumps(Run(canary), 2))),
            "cannot",
        ),
        "script: half": (archive_of(e)[:4000], "archive written by 'uip export'"),
    }
