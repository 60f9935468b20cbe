"""Signed files: `uip export --sign`, `uip verify`, and what changes after signing."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from export_files import exported
from signed_files import key_pair
from typer.testing import CliRunner

from uip.cli.app import app
from uip.program.reader import load_program
from uip.program.signature import sign, verify


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    shutil.copy(exported("random", ".pt"), path)
    private, _ = key_pair(tmp_path, "author")
    sign(path, private)
    return path


def test_a_signed_file(signed: Path, tmp_path: Path) -> None:
    assert verify(signed, tmp_path / "author.pub") == "author@example.org"
    load_program(signed)
    shown = CliRunner().invoke(app, ["verify", str(signed), str(tmp_path / "author.pub")])
    assert (shown.exit_code, "signed by author@example.org" in shown.stdout) == (0, True)
    with pytest.raises(ValueError, match="is signed already"):
        sign(signed, tmp_path / "author")


def test_other_keys_and_no_signature(signed: Path, tmp_path: Path) -> None:
    _, other = key_pair(tmp_path, "other")
    with pytest.raises(ValueError, match=r"must be signed by a key in .*other\.pub, but is signed by another"):
        verify(signed, other)
    with pytest.raises(ValueError, match="must be signed, but is not"):
        verify(exported("random", ".pt"), other)
    with pytest.raises(ValueError, match="has none"):
        verify(signed, tmp_path / "author")


def test_a_file_that_was_changed(signed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.pt"
    with zipfile.ZipFile(signed) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"def forward", b"def forwarD") if name.endswith(".py") else content)
    with pytest.raises(ValueError, match=r"changed after it was signed by author@example\.org"):
        verify(changed, tmp_path / "author.pub")


def test_keys_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(ValueError, match="must be a private ed25519 key without passphrase"):
        sign(exported("random", ".pt"), tmp_path / "key")
