"""Keys, and model files that are signed or not: what a reader with a file of trusted keys says of each."""

from __future__ import annotations

from pathlib import Path

import attack_files
import pytest

from uip.program.signature import SIGNATURE, private_key, sign

EXTRA = "the package cryptography, an extra, is not installed"
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason=EXTRA)
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason=EXTRA)

MOVED = ("constants/98", b"a weight, constants/99 another weight")
"""An entry that can become two: the row of all names and contents, and with it the checksum, stays the same."""


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key file and a line of its public key, as ssh-keygen writes them."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / name, folder / f"{name}.pub"
    s = serialization
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()))
    line = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    public.write_bytes(line + f" {name}@example.org\n".encode())
    return private, public


def signed(source: Path, target: Path, key: Path) -> Path:
    """A signed copy, with `MOVED` in it."""
    target.write_bytes(attack_files.archive_of([*attack_files.entries_of(source), MOVED]))
    sign(target, private_key(key))
    return target


def cases(source: Path, folder: Path) -> dict[str, tuple[Path, Path, str]]:
    """Of a .pt: a file, a file of keys, and a pattern of the message, "" if the file must be accepted."""
    key, author = key_pair(folder, "author")
    _, other = key_pair(folder, "other")
    good = signed(source, folder / "good.pt", key)
    entries = attack_files.entries_of(good)
    keys = _key_files(folder, author, other)
    files = {
        "changed": [(n, c.replace(b"def forward", b"def forwarD") if n.endswith(".py") else c) for n, c in entries],
        "moved": [*(e for e in entries if e != MOVED), (MOVED[0], b"a weight, "), ("constants/99", b" another weight")],
        "added": [*entries, ("constants/100", b"x")],
        "no_signature": [(n, b"{}" if n == SIGNATURE else c) for n, c in entries],
        "long_signature": [(n, b"[" * 10**6 if n == SIGNATURE else c) for n, c in entries],
    }
    for name, content in files.items():
        signature_first = sorted(content, key=lambda entry: entry[0] != SIGNATURE)
        (folder / f"{name}.pt").write_bytes(_sealed(signature_first))
    (folder / "damaged.pt").write_bytes(good.read_bytes().replace(b"def forward", b"def forwarD"))
    changed, strange = r"was changed after it was signed by author@example\.org", "its signature is not what"
    return {
        "good": (good, author, ""),
        "one of several keys": (good, keys["several"], ""),
        "not signed": (source, author, r"must be signed by a key in .*author\.pub, but is not signed; ask its author"),
        "another key": (
            good,
            other,
            r"must be signed by a key in .*other\.pub, but is signed by another, [0-9a-f]{64};",
        ),
        "changed": (folder / "changed.pt", author, changed),
        "moved": (folder / "moved.pt", author, changed),
        "added": (folder / "added.pt", author, changed),
        "damaged": (folder / "damaged.pt", author, "is damaged"),
        "no signature": (folder / "no_signature.pt", author, strange),
        "long signature": (folder / "long_signature.pt", author, strange),
        "no key file": (
            good,
            folder / "missing.pub",
            r"the file '.*missing\.pub', but that cannot be read; name a file",
        ),
        "a folder": (good, folder, "but that cannot be read; name a file"),
        "empty": (good, keys["empty"], r"empty\.pub must hold public keys, lines that begin with .*, but has none"),
        "private": (good, key, "must hold public keys, but holds a private one"),
        "binary": (good, keys["binary"], "but has none"),
        "cut": (good, keys["cut"], r"must hold public keys, one a line, but 'ssh-ed25519 AAAA.*' is none"),
        "odd": (good, keys["odd"], "must hold public keys, one a line, but"),
    }


def _key_files(folder: Path, author: Path, other: Path) -> dict[str, Path]:
    line = author.read_text()
    contents = {
        "several": b"# people\n\n" + other.read_bytes() + b"ssh-rsa AAAAB3 rsa\n" + line.encode(),
        "empty": b"",
        "binary": bytes(range(256)) * 40,
        "cut": line[:60].encode(),
        "odd": b"ssh-ed25519 !!!!\n",
    }
    for name, content in contents.items():
        (folder / f"{name}.pub").write_bytes(content)
    return {name: folder / f"{name}.pub" for name in contents}


def _sealed(entries: attack_files.Entries) -> bytes:
    """With the right checksum, which leaves out the signature."""
    without = [entry for entry in entries if entry[0] != SIGNATURE]
    total = attack_files.checksum_of(without)
    return attack_files.archive_of(entries, checksum=total)
