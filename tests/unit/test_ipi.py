"""`uip ipi` against ASE's server of i-PI's protocol: the same numbers, and where nothing listens."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import systems
from ase import Atoms, units
from ase.calculators.socketio import SocketIOCalculator
from ase.io import write
from ase.md.verlet import VelocityVerlet
from conftest import random_chgnet
from typer.testing import CliRunner, Result

from uip import Calculator
from uip.cli.app import app
from uip.cli.ipi import serve
from uip.models.chgnet import CHGNetConfig

CONFIG = CHGNetConfig(num_elements=30, channels=8, num_layers=2, num_radial=5, num_angular=5, num_readout=1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("make", [systems.nio, systems.water], ids=["crystal", "molecule"])
def test_twenty_steps(make: object) -> None:
    """The server moves the atoms; the client has forces, and of a crystal the stress."""
    calculator = Calculator(random_chgnet(CONFIG))
    name, counts = f"uip-{os.getpid()}", []
    client = make()
    client.calc = calculator
    atoms: Atoms = make()
    atoms.set_velocities(0.01 * np.random.default_rng(1).standard_normal((len(atoms), 3)))
    with SocketIOCalculator(unixsocket=name) as server:
        thread = Thread(target=lambda: counts.append(serve(client, unix=name)))
        thread.start()
        atoms.calc = server
        VelocityVerlet(atoms, 0.5 * units.fs).run(20)
        results = dict(server.results)
    thread.join(timeout=30)
    assert counts == [21]
    expected = Calculator(random_chgnet(CONFIG))
    assert results["energy"] == pytest.approx(expected.get_potential_energy(atoms), abs=1e-9)
    np.testing.assert_allclose(results["forces"], expected.get_forces(atoms), atol=1e-8)
    if atoms.pbc.all():
        np.testing.assert_allclose(results["stress"], expected.get_stress(atoms), atol=1e-9)


def test_nothing_listens(tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", systems.nio())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # ASE leaves the socket open; the process ends
        texts = [
            " ".join(run("ipi", tmp_path / "in.xyz", *where).stderr.split())
            for where in (("--unix", "nobody"), ("--port", 1))
        ]
        gc.collect()
    assert "i-PI must listen at the Unix socket 'nobody' before this command starts, but: No such file" in texts[0]
    assert "i-PI must listen at port 1 of localhost before this command starts, but: Connection refused" in texts[1]


def test_a_missing_file(tmp_path: Path) -> None:
    result = run("ipi", tmp_path / "absent.xyz")
    assert result.exit_code == 1
    assert "no such file" in result.stderr
