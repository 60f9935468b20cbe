"""Files of labelled structures in the layouts of databases and published data sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
import small
import systems
from ase import Atoms

from uip.data import json_entries as entries
from uip.data.labels import labels_from_atoms
from uip.data.read import read_atoms
from uip.graph.ase_io import structure_from_atoms
from uip.units import EV_PER_A3_TO_GPA

FORCES = [[0.1, -0.2, 0.3], [-0.1, 0.2, -0.3]]
STRESS = np.array([[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0]])  # kBar, as VASP prints it


def structure(**changes: Any) -> dict[str, Any]:
    """Rock salt, as pymatgen writes a structure."""
    lattice = [[0.0, 2.1, 2.1], [2.1, 0.0, 2.1], [2.1, 2.1, 0.0]]
    sites = [
        {"species": [{"element": name, "oxidation_state": charge, "occu": 1}], "abc": [x, x, x], "xyz": [4.2 * x] * 3}
        for name, charge, x in (("Ni", 2, 0.0), ("O", -2, 0.5))
    ]
    return {"@class": "Structure", "lattice": {"matrix": lattice, "pbc": [True] * 3}, "sites": sites, **changes}


def frame(**changes: Any) -> dict[str, Any]:
    """An entry of MPtrj."""
    labels = {
        "uncorrected_total_energy": -11.0,
        "corrected_total_energy": -12.0,
        "energy_per_atom": -6.0,
        "force": FORCES,
        "stress": STRESS.tolist(),
        "magmom": [-1.7, 0.1],
        "mp_id": "mp-1",
    }
    return {"structure": structure(), **labels, **changes}


def matpes(**changes: Any) -> dict[str, Any]:
    """An entry of MatPES."""
    voigt = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]].tolist()
    labels = {"energy": -12.0, "forces": FORCES, "stress": voigt, "magmoms": [1.7, 0.1], "matpes_id": "matpes-7"}
    return {"structure": structure(), **labels, "provenance": {"original_mp_id": "mp-9"}, **changes}


def read(path: Path, content: Any) -> list[Atoms]:
    text = content if isinstance(content, str) else json.dumps(content)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return list(read_atoms(path))


def check(atoms: Atoms) -> None:
    """All labels of `frame` and of `matpes`, in our units."""
    assert atoms.get_chemical_symbols() == ["Ni", "O"]
    np.testing.assert_allclose(atoms.positions[1], [2.1, 2.1, 2.1])
    assert atoms.pbc.all()
    labels = labels_from_atoms(atoms)
    assert labels["energy"] == pytest.approx(-12.0)
    np.testing.assert_allclose(labels["forces"], FORCES)
    np.testing.assert_allclose(labels["stress"] * EV_PER_A3_TO_GPA, -0.1 * STRESS, atol=1e-12)
    np.testing.assert_allclose(labels["magmoms"], [1.7, 0.1])


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_mptrj(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(entries, "PIECE", piece)  # values and keys that end at any character of a piece
    one = {"mp-1-0-1": frame(), "mp-1-0-2": frame(magmom=None, stress=None)}
    two = {"mp-2-1-0": frame(energy_per_atom=None, mp_id=None)}
    found = read(tmp_path / "mptrj.json", {"mp-1": one, "mp-2": two})
    check(found[0])
    assert set(labels_from_atoms(found[1])) == {"energy", "forces"}
    check(found[2])
    assert [atoms.info["frame"] for atoms in found] == ["mp-1-0-1", "mp-1-0-2", "mp-2-1-0"]
    assert [atoms.info["material"] for atoms in found] == ["mp-1", "mp-1", "mp-2"]


@pytest.mark.parametrize("name", ["matpes.json", "matpes.json.gz", "matpes.jsonl", "matpes.jsonl.gz"])
def test_matpes(tmp_path: Path, name: str) -> None:
    values = [matpes(), matpes(magmoms=None)]
    content: Any = "\n".join(map(json.dumps, values)) if "jsonl" in name else values
    found = read(tmp_path / name, content)
    check(found[0])
    assert set(labels_from_atoms(found[1])) == {"energy", "forces", "stress"}
    assert found[0].info["matpes_id"] == "matpes-7"
    assert found[0].info["mp_id"] == "mp-9"


def test_structures_without_cartesian_positions_or_lattice(tmp_path: Path) -> None:
    short = structure()
    for site in short["sites"]:
        del site["xyz"]
    molecule = structure(lattice=None)
    found = read(tmp_path / "a.json", [matpes(structure=short), matpes(structure=molecule, stress=None)])
    check(found[0])
    assert not found[1].pbc.any()


def test_energies_are_never_mixed(tmp_path: Path) -> None:
    """An entry without its corrected energy has none, though an uncorrected one is there."""
    found = read(tmp_path / "a.json", {"mp-1": {"0": frame(energy_per_atom=None, corrected_total_energy=None)}})
    assert "energy" not in labels_from_atoms(found[0])


def disordered() -> dict[str, Any]:
    species = [{"element": "Ni", "occu": 0.5}, {"element": "Co", "occu": 0.5}]
    return structure(sites=[{**structure()["sites"][0], "species": species}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [matpes(), matpes(structure=disordered())],
            "structure 1: every site must",
        ),
        ([matpes(), {"energy": 1.0}], "structure 1: an entry must be a table with a pymatgen structure"),
        ([matpes(), 5], "structure 1: an entry must be a table with a pymatgen structure"),
        (
            [matpes(stress=[1.0, 2.0])],
            r"structure 0: stress must have six numbers, or three rows of three, got the shape \(2,\)",
        ),
        (json.dumps([matpes(), matpes()])[:-20], r"a\.json, .*(Expecting|Unterminated)"),
        (json.dumps([matpes()])[:-1], "the file ends in the middle; fetch it again"),
        ([], "must be in a format that ASE reads"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.json", content)


def labelled() -> Atoms:
    atoms = small.frames(4)[3]
    atoms.calc.results["magmoms"] = -atoms.calc.results["magmoms"]
    return atoms


def test_databases(tmp_path: Path) -> None:
    pytest.importorskip("ase_db_backends", reason="ase-db-backends is an extra")
    for name in ("a.db", "a.aselmdb", "a.json"):
        with ase.db.connect(tmp_path / name) as database:
            database.write(labelled(), group="oxide", data={"charge": 1, "spin": 3})
        found = list(read_atoms(tmp_path / name))
        assert len(found) == 1
        given, again = labels_from_atoms(labelled()), labels_from_atoms(found[0])
        assert given.keys() == again.keys()
        for label, value in given.items():
            np.testing.assert_allclose(again[label], value)
        assert again["magmoms"].min() >= 0
        if name != "a.json":
            assert found[0].info["group"] == "oxide"
            assert (structure_from_atoms(found[0]).charge, structure_from_atoms(found[0]).spin) == (1, 3)


def test_a_missing_backend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_backend(_: str) -> None:
        raise AssertionError("unknown database type: aselmdb")

    (tmp_path / "a.aselmdb").touch()
    monkeypatch.setattr(ase.db, "connect", no_backend)
    with pytest.raises(ValueError, match=r"needs the package ase-db-backends .* run 'pip install ase-db-backends'"):
        list(read_atoms(tmp_path / "a.aselmdb"))


def test_plain_positions_are_as_before(tmp_path: Path) -> None:
    """JSON that ASE itself wrote is read by ASE."""
    systems.water().write(tmp_path / "water.json")
    assert next(iter(read_atoms(tmp_path / "water.json"))).get_chemical_formula() == "H2O"
