"""Signatures of exported files: ed25519, over the checksum and the table of all other entries, at
"extra/uip_signature".

The checksum in a file has no key and finds damage only; a signature also tells who exported the file. Keys are those of
`ssh-keygen -t ed25519`, or PEM. Needs the package `cryptography` (extra `sign`). Readers check signatures
in C++ (csrc/trust.cpp).
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from uip.config import existing_file

SIGNATURE, CHECKSUM = "extra/uip_signature", "extra/uip_sha256"
CONTEXT = b"uip model file, version 2: "
"""Signed with the rest, so that a signature made for anything else is none here."""

WRITTEN = re.compile(rb'\{"key": "([0-9a-f]{64})", "signature": "([0-9a-f]{128})"\}')
"""The entry of the archive."""


def sign(file: Path, private: Any) -> None:
    """Add to `file`, in place, a signature by the key `private` (`private_key`).

    Raises:
        ValueError: not an exported file, or signed already.
    """
    message = _message(file)
    with zipfile.ZipFile(file, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        if f"{root}/{SIGNATURE}" in archive.namelist():
            raise ValueError(f"{file} is signed already; export it again to sign it with another key")
        public = private.public_key().public_bytes_raw().hex()
        content = {"key": public, "signature": private.sign(message).hex()}
        archive.writestr(f"{root}/{SIGNATURE}", json.dumps(content))


def verify(file: Path, trusted: Path) -> str:
    """The comment of the key, of those in `trusted` (lines `ssh-ed25519 KEY COMMENT`), that signed `file`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not signed, changed since, or signed by another key.
        RuntimeError: no package `cryptography`.
    """
    keys = _public_keys(trusted)
    message = _message(file)
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].split("/")[0]
        if f"{root}/{SIGNATURE}" not in archive.namelist():
            raise ValueError(f"{file} must be signed, but is not; ask its author for 'uip export --sign KEY'")
        content = WRITTEN.fullmatch(archive.read(f"{root}/{SIGNATURE}"))
    if content is None:
        raise ValueError(f"{file}: its signature is not what 'uip export --sign' writes; do not use it")
    signer, signature = (text.decode() for text in content.groups())
    invalid = _cryptography().exceptions.InvalidSignature
    for raw, (public, comment) in keys.items():
        if raw != signer:
            continue
        try:
            public.verify(bytes.fromhex(signature), message)
        except invalid as error:
            raise ValueError(f"{file} was changed after it was signed by {comment}; do not use it") from error
        return comment
    raise ValueError(f"{file} must be signed by a key in {trusted}, but is signed by another, {signer}")


def _message(file: Path) -> bytes:
    """What is signed: the sha256 of all entries but checksum and signature, as `uip.program.writer` computes it, and
    their sizes and names, because the sha256 does not tell where one ends and the next begins."""
    try:
        with zipfile.ZipFile(existing_file(file)) as archive:
            names = archive.namelist()
            root = names[0].split("/")[0]
            if len(set(names)) != len(names) or f"{root}/{CHECKSUM}" not in names:
                raise ValueError(f"{file} must be a file written by 'uip export', but is another archive")
            total, table = hashlib.sha256(), b""
            for name in sorted(names, key=lambda name: name.removeprefix(f"{root}/").encode()):
                short = name.removeprefix(f"{root}/")
                if short not in (SIGNATURE, CHECKSUM):
                    content = archive.read(name)
                    total.update(short.encode() + content)
                    table += f"{len(content)} {short}\0".encode()
            return CONTEXT + total.hexdigest().encode() + b"\n" + table
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} must be a file written by 'uip export', but is damaged or of another kind") from error


def _cryptography() -> Any:
    try:
        import cryptography.exceptions
        import cryptography.hazmat.primitives.asymmetric.ed25519
        import cryptography.hazmat.primitives.serialization
    except ImportError as error:
        raise RuntimeError("signatures need the package cryptography; run 'pip install cryptography'") from error
    return cryptography


def private_key(path: Path) -> Any:
    """The key in a file of `ssh-keygen -t ed25519`, or in PEM.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a private ed25519 key, or one with a passphrase.
        RuntimeError: no package `cryptography`.
    """
    modules = _cryptography().hazmat.primitives
    content = existing_file(path).read_bytes()
    if content.startswith(b"ssh-") or b"PUBLIC KEY" in content:
        raise ValueError(f"{path} must be a private key, but is a public one; name the file beside it without '.pub'")
    load = modules.serialization.load_ssh_private_key if b"OPENSSH" in content else None
    try:
        key = (load or modules.serialization.load_pem_private_key)(content, password=None)
    except TypeError as error:
        raise ValueError(
            f"{path} must be a key without passphrase; remove it from a copy: ssh-keygen -p -f COPY"
        ) from error
    except (ValueError, _cryptography().exceptions.UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} must be a private ed25519 key; make one with 'ssh-keygen -t ed25519'") from error
    if not isinstance(key, modules.asymmetric.ed25519.Ed25519PrivateKey):
        raise ValueError(f"{path} must be an ed25519 key; make one with 'ssh-keygen -t ed25519'")
    return key


def _public_keys(path: Path) -> dict[str, tuple[Any, str]]:
    """By their raw bytes in hexadecimal digits: keys and comments."""
    load = _cryptography().hazmat.primitives.serialization.load_ssh_public_key
    keys = {}
    text = existing_file(path).read_text(errors="replace")
    if "PRIVATE KEY" in text:
        raise ValueError(f"{path} must hold public keys, but holds a private one; name the file that ends in '.pub'")
    for line in text.splitlines():
        if not line.startswith("ssh-ed25519 "):
            continue
        try:
            key = load(line.encode())
        except ValueError as error:
            raise ValueError(f"{path} must hold public keys, one a line, but '{line[:40]}' is none: {error}") from error
        keys[key.public_bytes_raw().hex()] = (key, " ".join(line.split()[2:]) or line.split()[1])
    if not keys:
        raise ValueError(f"{path} must hold public keys, lines that begin with 'ssh-ed25519', but has none")
    return keys
