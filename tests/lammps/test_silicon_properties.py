"""examples/finetune_si/properties.py: LAMMPS and ASE give the same properties of silicon."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PROPERTIES = Path(__file__).parents[2] / "examples" / "finetune_si" / "properties.py"


@pytest.mark.slow
def test_lammps_and_ase_agree() -> None:
    """Within the limits at which their relaxations stop; of the published CHGNet, with a vacancy in 8 sites."""
    spec = importlib.util.spec_from_file_location("properties", PROPERTIES)
    assert spec is not None
    assert spec.loader is not None
    properties = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(properties)
    ase, lammps = (measure("chgnet-0.3.0", repeats=1) for measure in (properties.of_ase, properties.of_lammps))
    limits = {"lattice": 1e-4, "c11": 5e-3, "c12": 5e-3, "c44": 5e-3, "vacancy": 2e-3, "phonon": 1e-3}
    for name, limit in limits.items():
        assert lammps[name] == pytest.approx(ase[name], rel=limit), name
    assert (ase["c11"] + 2 * ase["c12"]) / 3 == pytest.approx(ase["bulk"], rel=0.02)
