"""Which entries of a file are its labels: VASP's free energy, and names of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import systems
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from typer.testing import CliRunner

from uip.cli.app import app
from uip.data.dataset import labelled_structures
from uip.data.labels import LabelKeys, labels_from_atoms
from uip.data.read import read_atoms
from uip.train.config import make_config
from uip.train.setup import initial_model, open_data

OUTCAR = """ vasp.6.3.0 18Jan22 complex
 POTCAR:    PAW_PBE Al 04Jan2001
 POTCAR:    PAW_PBE Al 04Jan2001
   ions per type =               1
   ISPIN  =      1    spin polarized calculation?
   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps
--------------------------------------- Iteration      1(   1)  ---------------------------------------
 VOLUME and BASIS-vectors are now :
 -----------------------------------------------------------------------------
  energy-cutoff  :      400.00
  volume of cell :       64.00
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.000000000  4.000000000  0.000000000     0.000000000  0.250000000  0.000000000
     0.000000000  0.000000000  4.000000000     0.000000000  0.000000000  0.250000000
 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.010000      0.000000     -0.020000
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        -3.70000000 eV

  energy  without entropy=       -3.60000000  energy(sigma->0) =       -3.65000000
"""


def test_the_energy_of_vasp_belongs_to_its_forces(tmp_path: Path) -> None:
    """The free energy, of which the forces are derivatives; ASE's `energy` is extrapolated to zero smearing."""
    (tmp_path / "OUTCAR").write_text(OUTCAR)
    (atoms,) = read_atoms(tmp_path / "OUTCAR")
    assert atoms.get_potential_energy() == -3.65
    assert labels_from_atoms(atoms)["energy"] == -3.7
    assert labels_from_atoms(atoms, LabelKeys(energy="energy"))["energy"] == -3.65


def labelled() -> Atoms:
    """Labels under names of the user's own, and others that ASE knows."""
    atoms = systems.si_rattled()
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.ones((len(atoms), 3)))
    atoms.info |= {"REF_energy": -40.0, "REF_virials": np.arange(9.0).reshape(3, 3), "frame": 3, "comment": "x"}
    atoms.arrays["REF_forces"] = np.full((len(atoms), 3), 0.5)
    return atoms


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "named.xyz", [labelled(), labelled()])
    return tmp_path / "named.xyz"


KEYS = {"energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "REF_virials"}


def test_names_of_the_user(file: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", file, data=KEYS)
    targets = open_data(config, initial_model(config))[0][0].targets
    assert targets.energy.tolist() == [-40.0]
    assert (targets.forces == 0.5).all()
    stress = -np.arange(9.0).reshape(3, 3) / labelled().get_volume()
    np.testing.assert_allclose(targets.stress[0].numpy(), stress, rtol=1e-12)
    plain = small.config(tmp_path / "plain", file)
    assert open_data(plain, initial_model(plain))[0][0].targets.energy.tolist() == [1.0]


def test_stress_in_six_or_nine_numbers() -> None:
    atoms, six = labelled(), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    whole = six[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    for value in (six, whole, whole.ravel()):
        atoms.info["dft_stress"] = value
        found = labels_from_atoms(atoms, LabelKeys(stress="dft_stress"))["stress"]
        np.testing.assert_array_equal(found, whole)


def test_the_command_lists_what_could_be_a_label(file: Path) -> None:
    result = CliRunner().invoke(app, ["data", str(file)])
    assert result.exit_code == 0, result.output
    for text in (
        "could be energy (energy_key): REF_energy (2)",
        "could be forces (forces_key): REF_forces (2)",
        "could be stress (stress_key): REF_virials (2)",
    ):
        assert text in result.stdout
    options = [part for name, key in KEYS.items() for part in (f"--{name.replace('_', '-')}", key)]
    result = CliRunner().invoke(app, ["data", str(file), *options])
    assert "-5 " in result.stdout  # -40 eV, 8 atoms
    assert next(labelled_structures(file, LabelKeys(energy="frame")))[2]["energy"] == 3.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"energy_key": "REF_enrgy"},
            r"'data\.energy_key' must name an entry of .*named\.xyz, but no structure has 'REF_enrgy'; "
            "did you mean 'REF_energy'",
        ),
        ({"stress_key": "dft"}, r"'data\.stress_key' must .*, but no structure has 'dft'; known: REF_virials"),
        ({"energy_key": "comment"}, "'comment', named as the label energy, must be numbers, got 'x'"),
        ({"forces_key": "REF_virials"}, r"structure 0: forces of 8 atoms must have shape \(8, 3\), got \(3, 3\)"),
    ],
)
def test_names_that_do_not_fit(data: dict, message: str, file: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", file, data=data)
    with pytest.raises(ValueError, match=message):
        open_data(config, initial_model(config))


def test_virials_have_one_convention() -> None:
    with pytest.raises(ValueError, match=r"virials .*'virial'. must be in eV .*, got 'data\.stress_unit' 'GPa'"):
        make_config({"data": {"train": "a", "stress_key": "virial", "stress_unit": "GPa"}})
