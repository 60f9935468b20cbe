"""XML is data: it holds the model or names it, survives processes and copies, and is refused with a message."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import systems
from openmm import app, unit
from openmm_systems import case_of, context_of, numbers_of, platforms, small, system_of

from uip.openmm import find_forces
from uip.plugins import openmm_plugin

ROOT = Path(__file__).parents[2]


def in_new_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


READ = """
import sys, openmm
from uip.openmm import load_plugin
load_plugin()
assert "torch" not in sys.modules
system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
context.setState(openmm.XmlSerializer.deserialize(open(sys.argv[2]).read()))
print(repr(context.getState(getEnergy=True).getPotentialEnergy()._value))
"""


@pytest.mark.parametrize("embed", [True, False])
def test_a_new_process_gives_the_same_energy(embed: bool, tmp_path: Path) -> None:
    case = case_of(systems.nio())
    system = system_of(case, small(), embed=embed)
    context = context_of(system, case.positions)
    state = context.getState(getEnergy=True, getPositions=True)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    (tmp_path / "state.xml").write_text(openmm.XmlSerializer.serialize(state))
    result = in_new_process(READ, str(tmp_path / "system.xml"), str(tmp_path / "state.xml"))
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == state.getPotentialEnergy()._value


def test_settings_survive(tmp_path: Path) -> None:
    """All of them: a second writing is the same text."""
    case = case_of(systems.water())
    model = tmp_path / 'odd & "name" <1>.pt'
    model.write_bytes(small().read_bytes())
    for embed in (True, False):
        system = system_of(case, model, embed=embed, group=7, name="a & b", skin=0.25, particles=[2, 0, 1])
        text = openmm.XmlSerializer.serialize(system)
        again = openmm.XmlSerializer.deserialize(text)
        assert openmm.XmlSerializer.serialize(again) == text
        force = again.getForce(0)
        assert (force.getName(), force.getForceGroup()) == ("a & b", 7)
        assert not force.usesPeriodicBoundaryConditions()
        assert ('content="' in text) == embed
        assert re.search(r'skin="\.?0?\.025"', text)


def test_deep_copies(tmp_path: Path) -> None:
    """Also after the file is gone, for a System that holds the model."""
    model = tmp_path / "gone.pt"
    model.write_bytes(small().read_bytes())
    case = case_of(systems.nio())
    system = system_of(case, model)
    model.unlink()
    copied = copy.deepcopy(copy.deepcopy(system))
    wanted = numbers_of(context_of(system, case.positions))
    got = numbers_of(context_of(copied, case.positions))
    assert got[0] == wanted[0]
    assert (got[1] == wanted[1]).all()


@platforms()
def test_checkpoint_restart(platform: str) -> None:
    case = case_of(systems.nio())
    system = system_of(case, small())
    context = context_of(system, case.positions, platform)
    context.setVelocitiesToTemperature(300, 3)
    context.getIntegrator().step(5)
    checkpoint = context.createCheckpoint()

    def onwards(runner: openmm.Context) -> np.ndarray:
        runner.loadCheckpoint(checkpoint)
        runner.getIntegrator().step(5)
        return runner.getState(getPositions=True).getPositions(asNumpy=True)._value

    assert onwards(context) == pytest.approx(onwards(context_of(system, case.positions, platform)), abs=1e-12)


def test_simulation_state_files(tmp_path: Path) -> None:
    case = case_of(systems.nio())
    simulation = app.Simulation(
        case.topology,
        system_of(case, small()),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("Reference"),
    )
    simulation.context.setPositions(case.positions)
    simulation.step(3)
    simulation.saveState(str(tmp_path / "state.xml"))
    energy = numbers_of(simulation.context)[0]
    simulation.step(3)
    assert numbers_of(simulation.context)[0] != energy
    simulation.loadState(str(tmp_path / "state.xml"))
    assert numbers_of(simulation.context)[0] == pytest.approx(energy, rel=1e-13)


def xml() -> str:
    return openmm.XmlSerializer.serialize(system_of(case_of(systems.water()), small()))


def by_path(path: Path) -> str:
    return openmm.XmlSerializer.serialize(system_of(case_of(systems.water()), path, embed=False))


def damaged(text: str) -> str:
    """One letter of the model changed."""
    start = text.index('content="') + 1000
    return text[:start] + ("A" if text[start] != "A" else "B") + text[start + 1 :]


DAMAGES = {
    "letter": (damaged, "must have sha256 [0-9a-f]{64}, got [0-9a-f]{64}; it was damaged or replaced, copy it again"),
    "cut": (lambda text: re.sub(r'content="(.{100}).*?"', r'content="\1"', text), "must have sha256"),
    "odd": (lambda text: re.sub(r'content=".*?"', 'content="abc"', text), "base64 text is cut short"),
    "foreign": (lambda text: re.sub(r'content="....', 'content="!!!!', text), "a character of another kind"),
    "version": (
        lambda text: re.sub(r'(type="UipForce"[^>]*)version="1"', r'\1version="7"', text),
        "written with version 7 of its format, this build reads 1; install the uip that wrote it",
    ),
    "element": (lambda text: text.replace('z="8"', 'z="80"'), "is Hg, but 'unnamed' knows H He"),
    "number": (lambda text: text.replace('z="8"', 'z="eight"'), "cannot read a UipForce"),
    "missing": (lambda text: re.sub(r'skin="[^"]*"', "", text), "cannot read a UipForce"),
    "no model": (lambda text: re.sub(r"<Model.*?/>", "", text), "cannot read a UipForce"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_xml_is_refused(damage: str) -> None:
    change, message = DAMAGES[damage]
    text = change(xml())
    assert text != xml()
    with pytest.raises(openmm.OpenMMException, match=message):
        openmm.XmlSerializer.deserialize(text)


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(small().read_bytes())
    text = by_path(model)
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(openmm.OpenMMException, match=r"cannot load model\.pt: it must have sha256"):
        openmm.XmlSerializer.deserialize(text)
    model.unlink()
    with pytest.raises(openmm.OpenMMException, match=r"no such model file: .*model\.pt"):
        openmm.XmlSerializer.deserialize(text)


def test_without_the_plugin_openmm_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "system.xml").write_text(xml())
    code = "import sys, openmm; openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())"
    result = in_new_process(code, str(tmp_path / "system.xml"))
    assert result.returncode == 1  # and not a signal
    assert "UipForce" in result.stderr.splitlines()[-1]


def test_another_openmm_is_refused(tmp_path: Path) -> None:
    """The plugin asks OpenMM for its version; here something before it answers with another one."""
    source = tmp_path / "other.cpp"
    source.write_text(
        "#include <string>\n"
        "namespace OpenMM { struct Platform { static const std::string &getOpenMMVersion(); }; }\n"
        'const std::string &OpenMM::Platform::getOpenMMVersion() { static std::string v = "8.5.2"; return v; }\n'
    )
    other = tmp_path / "libother.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(other), str(source)], check=True)
    code = "from uip.openmm import load_plugin; load_plugin()"
    command = ["env", f"LD_PRELOAD={other}", sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 1
    assert re.search(
        r"libuipopenmm was built for OpenMM 8\.\d+\.\d+, but OpenMM 8\.5\.2 is running; install openmm 8\.\d+, or run",
        result.stderr,
    )


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from uip import plugins

    assert openmm_plugin().exists()
    monkeypatch.setattr(plugins, "LIBRARIES", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"libuipopenmm\.so must exist, but this installation lacks it"):
        openmm_plugin()


def test_quantities_of_a_copy_belong_to_the_copy() -> None:
    case = case_of(systems.nio())
    system = system_of(case, small())
    first = context_of(system, case.positions)
    second = context_of(copy.deepcopy(system), case.positions.value_in_unit(unit.nanometer) * 1.01)
    energies = [find_forces(context)[0].energy for context in (first, second)]
    assert energies[0] == pytest.approx(numbers_of(first)[0])
    assert energies[1] == pytest.approx(numbers_of(second)[0])
    assert energies[0] != energies[1]
