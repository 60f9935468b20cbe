"""Readers that are given keys accept what one of these keys signed, and nothing else: Python, OpenMM, LAMMPS."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attack_files
import openmm
import pytest
import systems
from engine_loads import errors_of_lammps, run_python
from export_files import COMPILED, exported
from signed_files import cases, key_pair
from typer.testing import CliRunner

from uip import Calculator
from uip.cli.app import app
from uip.openmm import create_force, create_python_force
from uip.program.reader import load_program
from uip.program.signature import verify

Cases = dict[str, tuple[Path, Path, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return cases(exported("random", ".pt"), tmp_path_factory.mktemp("signed"))


def test_python(files: Cases) -> None:
    for name, (path, keys, message) in files.items():
        if not message:
            load_program(path, trusted=keys)
            continue
        with pytest.raises(ValueError, match=message) as caught:
            load_program(path, trusted=keys)
        assert str(caught.value).startswith(f"cannot load {path}: "), name
        assert len(str(caught.value).splitlines()) == 1, name


def test_verify_agrees(files: Cases) -> None:
    """The command reads keys and files with other libraries."""
    for path, keys, message in files.values():
        if not message:
            assert verify(path, keys) == "author@example.org"
            continue
        with pytest.raises((ValueError, OSError)):
            verify(path, keys)


def test_calculator(files: Cases) -> None:
    good, keys, _ = files["good"]
    calc = Calculator(good, trusted=keys)
    atoms = systems.nio()
    assert Calculator(good).get_potential_energy(atoms) == calc.get_potential_energy(atoms)
    path, keys, message = files["changed"]
    with pytest.raises(ValueError, match=message):
        calc.set(model=path)
    with pytest.raises(ValueError, match="signed by another"):
        calc.set(trusted=files["another key"][1])
    with pytest.raises(ValueError, match=r"`trusted` needs a file written by 'uip export', .* got 'chgnet-0.3.0'"):
        Calculator("chgnet-0.3.0", trusted=keys)


def test_openmm(files: Cases) -> None:
    for path, keys, message in files.values():
        if not message:
            assert "trusted" not in openmm.XmlSerializer.serialize(
                create_force(path, [28], periodic=False, trusted=keys)
            )
            continue
        with pytest.raises(openmm.OpenMMException, match=message):
            create_force(path, [28], periodic=False, trusted=keys)
    path, keys, message = files["changed"]
    with pytest.raises(ValueError, match=message):
        create_python_force(path, [28], periodic=False, trusted=keys)


def test_the_environment_variable(files: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds for all readers, also for XML, and beside keys that are given."""
    good, author, _ = files["good"]
    plain, _, message = files["not signed"]
    by_good, by_plain = (
        openmm.XmlSerializer.serialize(create_force(path, [28], periodic=False)) for path in (good, plain)
    )
    monkeypatch.setenv("UIP_TRUSTED", str(author))
    load_program(good)
    openmm.XmlSerializer.deserialize(by_good)
    with pytest.raises(ValueError, match=message):
        Calculator(plain)
    with pytest.raises(openmm.OpenMMException, match=message):
        openmm.XmlSerializer.deserialize(by_plain)
    load_program(plain, own=True)
    with pytest.raises(ValueError, match="signed by another"):
        load_program(good, trusted=files["another key"][1])
    monkeypatch.setenv("UIP_TRUSTED", "")
    with pytest.raises(ValueError, match="must be signed by a key in the file '', but that cannot be read"):
        load_program(good)


def test_lammps(files: Cases) -> None:
    found = errors_of_lammps([(name, path, f"trusted {keys}") for name, (path, keys, _) in files.items()])
    for name, (_, _, message) in files.items():
        assert re.search(message, found[name]) if message else not found[name], (name, found[name])


def test_lammps_and_the_environment_variable(files: Cases) -> None:
    good, author, _ = files["good"]
    plain, _, message = files["not signed"]
    found = errors_of_lammps([("good", good, ""), ("plain", plain, "")], UIP_TRUSTED=str(author))
    assert not found["good"]
    assert re.search(message, found["plain"])


LATER = """
import json, sys
from engine_loads import deck, restart_deck, silent_lammps
plain, good, author = sys.argv[1:]
trusted = f"pair_style uip trusted {author}\\n"
found = []
for commands in (
    deck(plain) + trusted + "run 0",
    deck(plain) + restart_deck(plain) + trusted + "run 0",
    deck(plain) + f"pair_style uip trusted {author}.absent\\nrun 0",
    deck(good) + trusted + f"pair_coeff * * {good} Ni\\nrun 0",
):
    lmp = silent_lammps()
    try:
        lmp.commands_string(commands)
        found.append("")
    except Exception as error:
        found.append(str(error))
    lmp.close()
print(json.dumps(found))
"""


def test_lammps_is_asked_for_signatures_of_the_model_in_use(files: Cases) -> None:
    """After pair_coeff and after read_restart: the file must be read again."""
    good, author, _ = files["good"]
    found = json.loads(run_python(LATER, files["not signed"][0], good, author).splitlines()[-1])
    for text in found[:3]:
        assert re.search(r"the model in use was read before 'trusted .*' was given; give pair_coeff again", text), text
    assert found[3] == ""


def test_a_pipe_is_no_file_of_keys(files: Cases, tmp_path: Path) -> None:
    """It is not opened: that would wait for what writes into it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="but that cannot be read; name a file of public keys"):
        load_program(files["good"][0], trusted=tmp_path / "pipe")


def test_a_python_force_that_is_refused_when_its_xml_is_read(files: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMM would end the process: the message comes with the first evaluation."""
    plain, _, message = files["not signed"]
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(create_python_force(plain, [28], periodic=False))
    text = openmm.XmlSerializer.serialize(system)
    monkeypatch.setenv("UIP_TRUSTED", str(files["good"][1]))
    read = openmm.XmlSerializer.deserialize(text)
    integrator, platform = openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(read, integrator, platform)
    context.setPositions([(0, 0, 0)])
    with pytest.raises(openmm.OpenMMException, match=message):
        context.getState(getEnergy=True)


def test_commands_that_evaluate(files: Cases, tmp_path: Path) -> None:
    good, author, _ = files["good"]
    plain, _, message = files["not signed"]
    systems.nio().write(tmp_path / "nio.xyz")
    command = ["predict", str(tmp_path / "nio.xyz"), "--trusted", str(author), "-m"]
    assert CliRunner().invoke(app, [*command, str(good)]).exit_code == 0
    refused = CliRunner().invoke(app, [*command, str(plain)])
    assert refused.exit_code == 1
    assert re.search(message, refused.stderr)


def test_lammps_without_a_file_of_keys(files: Cases) -> None:
    good, _, _ = files["good"]
    found = errors_of_lammps(
        [("none", good, "trusted"), ("quotes", good, "trusted '\"a\"'"), ("twice", good, "trusted a trusted b")]
    )
    assert (
        "each keyword must be given once, but 'trusted' is there twice; remove one, and put all keys in one file"
        in found.pop("twice")
    )
    for text in found.values():
        assert "pair_style uip: 'trusted' must name a file of public keys, without quotes in its name, got '" in text


@COMPILED
def test_nothing_of_a_refused_library_is_unpacked_or_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    entries = attack_files.entries_of(exported("random", ".pt2"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))  # unpacking would end with another message
    library = attack_files.library(canary)
    path = tmp_path / "model.pt2"
    path.write_bytes(attack_files.archive_of([(n, library if n.endswith(".so") else c) for n, c in entries]))
    _, keys = key_pair(tmp_path, "author")
    with pytest.raises(ValueError, match="but is not signed"):
        load_program(path, trusted=keys)
    assert not canary.exists()


NO_LIBRARY = """
import sys
from uip.program.reader import load_program
print(load_program(sys.argv[1]).metadata["hash"])
try:
    load_program(sys.argv[1], trusted=sys.argv[2])
except ValueError as error:
    print(error)
"""


def test_without_libcrypto(files: Cases, tmp_path: Path) -> None:
    """A library of this name that has none of its functions: files are read with a routine of our own, but no signature
    is accepted."""
    good, author, _ = files["good"]
    for name in ("libcrypto.so.3", "libcrypto.so.4", "libcrypto.so.1.1"):
        subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", tmp_path / name], check=True)
    run = subprocess.run(
        [sys.executable, "-c", NO_LIBRARY, str(good), str(author)],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found, message = run.stdout.splitlines()
    assert found == hashlib.sha256(good.read_bytes()).hexdigest()
    assert "signatures need OpenSSL's libcrypto (libcrypto.so.3), but none is found; install OpenSSL" in message
