"""Arguments of `createSystem` and of the PythonForce: none is ignored, and the message names what is possible."""

from __future__ import annotations

import pytest
import systems
from conftest import random_allscaip, random_chgnet
from openmmml import MLPotential

from uip.checkpoint import save_checkpoint
from uip.openmm import create_python_force, topology_from_atoms


def test_unknown_arguments() -> None:
    topology, _ = topology_from_atoms(systems.water())
    potential = MLPotential("uip", modelPath="model.pt2")
    with pytest.raises(TypeError, match=r"no argument `device`; implementation='python' has it; it takes embed, skin"):
        potential.createSystem(topology, device="cuda")
    with pytest.raises(TypeError, match=r"no argument `dtpye`; did you mean 'dtype'\?; it takes head, device, dtype"):
        potential.createSystem(topology, dtpye="float64", implementation="python")
    with pytest.raises(TypeError, match="no argument `spin`; use `multiplicity`"):
        potential.createSystem(topology, spin=3)


@pytest.mark.parametrize("model", ["chgnet-0.3.0", "model.ckpt"])
def test_the_native_force_needs_an_exported_file(model: str) -> None:
    topology, _ = topology_from_atoms(systems.water())
    with pytest.raises(ValueError, match=f"run 'uip export {model} -o .*, or use implementation='python'"):
        MLPotential("uip", modelPath=model).createSystem(topology)


def test_a_checkpoint_that_reads_charge(tmp_path: object) -> None:
    save_checkpoint(random_allscaip(), tmp_path / "charged.ckpt")
    create_python_force(tmp_path / "charged.ckpt", [8, 1, 1], periodic=False, charge=1, spin=2)
    save_checkpoint(random_chgnet(), tmp_path / "neutral.ckpt")
    with pytest.raises(ValueError, match="reads no total charge, so `charge` must be 0, got 1"):
        create_python_force(tmp_path / "neutral.ckpt", [8, 1, 1], periodic=False, charge=1)
