"""Crafted model files: each reader refuses them with a message, runs nothing, writes nothing, leaves nothing behind."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attack_files
import openmm
import pytest
from engine_loads import errors_of_lammps
from export_files import COMPILED, exported

from uip import Calculator
from uip.openmm import create_force, load_plugin
from uip.program.reader import load_program

pytestmark = COMPILED
Attacks = dict[str, tuple[Path, str]]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "uip-canary"


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory, canary: Path) -> Attacks:
    """Files with the pattern of the message."""
    folder, files = tmp_path_factory.mktemp("attacks"), {}
    made = attack_files.compiled(exported("random", ".pt2"), canary) | attack_files.script(
        exported("random", ".pt"), canary
    )
    for number, (name, (content, message)) in enumerate(made.items()):
        path = folder / f"{number}.{'pt' if name.startswith('script') else 'pt2'}"
        path.write_bytes(content)
        files[name] = (path, message)
    assert len(files) >= 40
    return files


@pytest.fixture
def scratch(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TMPDIR of the test; empty afterwards, and no code was run."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield scratch
    assert not list(scratch.iterdir())
    assert not canary.exists()


def test_python(attacks: Attacks, scratch: Path) -> None:
    for name, (path, message) in attacks.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_program(path)
        assert str(caught.value).startswith(f"cannot load {path}: "), name
        assert len(str(caught.value).splitlines()) == 1, name


def test_calculator(attacks: Attacks, scratch: Path) -> None:
    for path, message in list(attacks.values())[::5]:
        with pytest.raises(ValueError, match=message):
            Calculator(path)


def test_openmm(attacks: Attacks, scratch: Path) -> None:
    """By path, and embedded in XML with the right hash."""
    for path, message in attacks.values():
        with pytest.raises(openmm.OpenMMException, match=message):
            context_of(create_force(path, [1], periodic=False))
        with pytest.raises(openmm.OpenMMException, match=message):
            context_of(openmm.XmlSerializer.deserialize(xml_of(path.name, path.read_bytes())))


def xml_of(name: str, content: bytes) -> str:
    return (
        '<Force type="UipForce" version="1" name="x" forceGroup="0" periodic="0" charge="0" spin="1" skin="0.05">'
        f'<Model name="{name}" sha256="{hashlib.sha256(content).hexdigest()}" embed="1" '
        f'content="{base64.b64encode(content).decode()}"/><Atoms><Atom z="1"/></Atoms></Force>'
    )


def context_of(force: openmm.Force) -> openmm.Context:
    """Reading is lazy: the program is loaded with the Context."""
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(force)
    return openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))


def test_lammps(attacks: Attacks, scratch: Path) -> None:
    found = errors_of_lammps([(name, path, "") for name, (path, _) in attacks.items()])
    for name, (path, message) in attacks.items():
        assert re.search(message, found[name]), (path, message, found[name])


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_good_file_leaves_nothing_behind(suffix: str, scratch: Path) -> None:
    """Removed right after the load, while the program is in use."""
    load_plugin()
    path = exported("random", suffix)
    program = load_program(path)
    assert not list(scratch.iterdir())
    context = context_of(openmm.XmlSerializer.deserialize(xml_of(path.name, path.read_bytes())))
    assert not list(scratch.iterdir())
    del program, context


def test_openmm_needs_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in XML is read from memory: no file that a killed process could leave."""
    load_plugin()
    path = exported("random", ".pt")
    text = xml_of(path.name, path.read_bytes())
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    context_of(openmm.XmlSerializer.deserialize(text))


def test_folders_of_killed_processes_are_removed(scratch: Path) -> None:
    """A folder with a free lock is abandoned, one that a process holds is not."""
    for name in ("uip-dead01", "uip-alive1"):
        (scratch / name).mkdir()
        (scratch / name / "lock").touch()
        (scratch / name / "left.so").touch()
    (scratch / "uip-other").mkdir()
    holder = subprocess.Popen(["flock", str(scratch / "uip-alive1" / "lock"), "sleep", "60"])
    try:
        while subprocess.run(["flock", "-n", str(scratch / "uip-alive1" / "lock"), "true"]).returncode == 0:
            pass
        load_program(exported("random", ".pt2"))
        assert sorted(path.name for path in scratch.iterdir()) == ["uip-alive1", "uip-other"]
    finally:
        holder.kill()
        holder.wait()
    for path in (scratch / "uip-alive1" / "lock", scratch / "uip-alive1" / "left.so"):
        path.unlink()
    (scratch / "uip-alive1").rmdir()
    (scratch / "uip-other").rmdir()


def test_a_missing_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(
        ValueError, match=r"needs a folder for temporary files, but .*none is not there.*; set TMPDIR to"
    ):
        load_program(exported("random", ".pt2"))
    load_program(exported("random", ".pt"))


@pytest.mark.parametrize(
    ("options", "message"), [("noexec", r"forbids programs \(noexec\)"), ("size=64k", "has no room for")]
)
def test_an_unsuitable_temporary_folder(tmp_path: Path, options: str, message: str) -> None:
    """On a file system that is made for it, where that is allowed."""
    code = "import sys; from uip.program.reader import load_program; load_program(sys.argv[1])"
    script = f'mount -t tmpfs -o {options} none "$TMPDIR" || exit 77; exec "{sys.executable}" -c "{code}" "$0"'
    run = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(exported("random", ".pt2"))],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    if run.returncode == 77 or "unshare" in run.stderr:
        pytest.skip("mounting is not allowed here")
    assert re.search(message, run.stderr), run.stderr[-500:]
