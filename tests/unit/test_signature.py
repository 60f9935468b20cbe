"""Signed files: `uip export --sign`, `uip verify`, and what changes after signing."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from export_files import exported, source
from signed_files import key_pair, serialization
from typer.testing import CliRunner

from uip.cli.app import app
from uip.program.reader import load_program
from uip.program.signature import private_key, sign, verify
from uip.program.writer import export_model


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    shutil.copy(exported("random", ".pt"), path)
    private, _ = key_pair(tmp_path, "author")
    sign(path, private_key(private))
    return path


def test_a_signed_file(signed: Path, tmp_path: Path) -> None:
    assert verify(signed, tmp_path / "author.pub") == "author@example.org"
    load_program(signed)
    shown = CliRunner().invoke(app, ["verify", str(signed), str(tmp_path / "author.pub")])
    assert (shown.exit_code, "signed by author@example.org" in shown.stdout) == (0, True)
    with pytest.raises(ValueError, match="is signed already"):
        sign(signed, private_key(tmp_path / "author"))


def test_other_keys_and_no_signature(signed: Path, tmp_path: Path) -> None:
    _, other = key_pair(tmp_path, "other")
    with pytest.raises(ValueError, match=r"must be signed by a key in .*other\.pub, but is signed by another"):
        verify(signed, other)
    with pytest.raises(ValueError, match="must be signed, but is not"):
        verify(exported("random", ".pt"), other)
    with pytest.raises(ValueError, match=r"holds a private one; name the file that ends in '\.pub'"):
        verify(signed, tmp_path / "author")


def test_a_file_that_was_changed(signed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.pt"
    with zipfile.ZipFile(signed) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"def forward", b"def forwarD") if name.endswith(".py") else content)
    with pytest.raises(ValueError, match=r"changed after it was signed by author@example\.org"):
        verify(changed, tmp_path / "author.pub")


def key_file(path: Path, kind: str) -> Path:
    """A file that is no private ed25519 key."""
    private, public = key_pair(path.parent, "author")
    if kind == "locked":
        key, s = private_key(private), serialization
        encoding, encryption = (s.Encoding.PEM, s.PrivateFormat.PKCS8), s.BestAvailableEncryption(b"secret")
        path.write_bytes(key.private_bytes(*encoding, encryption))
    elif kind == "rsa":
        subprocess.run(["openssl", "genrsa", "-out", path, "1024"], check=True, capture_output=True)
    else:
        path.write_bytes(public.read_bytes() if kind == "public" else b"no key")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "must be a private ed25519 key; make one"),
        ("public", "must be a private key, but is a public one; name the file beside it without '.pub'"),
        ("locked", "must be a key without passphrase; remove it from a copy: ssh-keygen -p -f COPY"),
        ("rsa", "must be an ed25519 key; make one"),
    ],
)
def test_keys_that_are_none(kind: str, message: str, tmp_path: Path) -> None:
    """Found before anything is traced or written."""
    key, output = key_file(tmp_path / "key", kind), tmp_path / "model.pt2"
    with pytest.raises(ValueError, match=message):
        export_model(source("random"), output, sign=key)
    assert not output.exists()


def test_export_signs_before_the_file_appears(tmp_path: Path) -> None:
    """As `uip export --sign`; a tiny CHGNet."""
    private, public = key_pair(tmp_path, "author")
    export_model(source("random"), tmp_path / "model.pt", sign=private)
    assert verify(tmp_path / "model.pt", public) == "author@example.org"
