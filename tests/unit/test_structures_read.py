"""Files that do not fix which atom is where: refused wherever structures are read."""

from __future__ import annotations

import io
from pathlib import Path

import ase.io
import numpy as np
import pytest
import systems
from ase import Atoms

from uip import Calculator
from uip.data.dataset import labelled_structures
from uip.data.read import read_atoms, read_structures
from uip.openmm.structure import topology_from_atoms

PARTIAL = """data_partial
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
 _atom_site_label
 _atom_site_type_symbol
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
Ni1 Ni 0 0 0 0.5
{second}
O1 O 0.5 0.5 0.5 1.0
"""
SHARED = PARTIAL.format(second="Fe1 Fe 0 0 0 0.5")
VACANT = PARTIAL.format(second="")
MESSAGE = "every site must be one whole atom, but site 0 is Ni 0.5.*; choose an ordered structure"


@pytest.fixture(params=[SHARED, VACANT], ids=["two elements", "vacancies"])
def partial(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "partial.cif"
    path.write_text(request.param)
    return path


def test_partly_occupied_sites(partial: Path) -> None:
    with pytest.raises(ValueError, match=rf"partial\.cif, structure 0: {MESSAGE}"):
        list(read_structures(partial))
    with pytest.raises(ValueError, match=MESSAGE):
        list(labelled_structures(partial))


def test_partly_occupied_sites_in_python(partial: Path) -> None:
    atoms = ase.io.read(partial)
    atoms.calc = Calculator("chgnet-0.3.0")
    with pytest.raises(ValueError, match=MESSAGE):
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match=MESSAGE):
        topology_from_atoms(atoms)
    del atoms.info["occupancy"]
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize("name", ["partial.xyz", "partial.traj"])
def test_occupancies_survive_other_formats(partial: Path, name: str) -> None:
    path = partial.with_name(name)
    ase.io.write(path, ase.io.read(partial))
    with pytest.raises(ValueError, match=MESSAGE):
        list(read_structures(path))


def test_whole_sites(tmp_path: Path) -> None:
    systems.nio().write(tmp_path / "nio.cif")
    ((atoms, _),) = read_structures(tmp_path / "nio.cif")
    assert "occupancy" in atoms.info
    assert len(atoms) == 8


def test_alternate_locations_of_a_pdb() -> None:
    atoms = systems.water()
    atoms.set_array("occupancy", np.array([1.0, 0.0, 1.0]))
    atoms.calc = Calculator("chgnet-0.3.0")
    atoms.get_potential_energy()
    atoms.set_array("occupancy", np.array([1.0, 0.6, 1.0]))
    atoms.calc.reset()
    with pytest.raises(ValueError, match=r"atom 1 has the occupancy 0\.6"):
        atoms.get_potential_energy()


DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 5.4
0 5.4
0 5.4
ITEM: ATOMS id {columns} x y z
1 {first} 0 0 0
2 {second} 1.35 1.35 1.35
"""
TYPES = DUMP.format(columns="type", first="1", second="2")


def symbols(path: Path | str, **options: object) -> str:
    return str(next(iter(read_atoms(path, **options))).symbols)


@pytest.mark.parametrize(
    "text", [TYPES, DUMP.format(columns="type mass", first="1 28.0855", second="2 4.0")], ids=["types", "masses"]
)
def test_dump_without_elements(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.dump").write_text(text * 2)
    with pytest.raises(ValueError, match=r"run\.dump must name the element of each atom, but has types only; list one"):
        list(read_structures(tmp_path / "run.dump"))
    assert symbols(tmp_path / "run.dump", species=["Si", "O"]) == "SiO"
    with pytest.raises(ValueError, match=r"must name an element for each type, but those of .*dump reach from 1 to 2"):
        symbols(tmp_path / "run.dump", species=["Si"])
    with pytest.raises(ValueError, match="must be element symbols, got 'SI'; did you mean 'S'"):
        symbols(tmp_path / "run.dump", species=["SI", "O"])
    with pytest.raises(ValueError, match="must be element symbols, got 'X'; "):
        symbols(tmp_path / "run.dump", species=["Si", "X"])


def test_dump_with_elements(tmp_path: Path) -> None:
    (tmp_path / "run.dump").write_text(DUMP.format(columns="type element", first="2 Si", second="1 O"))
    assert symbols(tmp_path / "run.dump") == "SiO"
    with pytest.raises(ValueError, match=r"run\.dump names its elements; leave it out"):
        symbols(tmp_path / "run.dump", species=["Si", "O"])


DATA = """silica

2 atoms
2 atom types
0 5.4 xlo xhi
0 5.4 ylo yhi
0 5.4 zlo zhi
{sections}
Atoms # atomic

1 1 0 0 0
2 2 1.35 1.35 1.35
"""
MASSES = "\nMasses\n\n1 {first}\n2 15.999\n"
LABELS = "\nAtom Type Labels\n\n1 Si\n2 O\n"


def test_data_file(tmp_path: Path) -> None:
    path = tmp_path / "silica.data"
    path.write_text(DATA.format(sections=""))
    with pytest.raises(ValueError, match=r"at least one structure, got none; .*--format, for example lammps-data"):
        symbols(path)
    with pytest.raises(ValueError, match=r"by type labels or by their masses, but has neither; list one element"):
        symbols(path, kind="lammps-data")
    assert symbols(path, kind="lammps-data", species=["Si", "O"]) == "SiO"
    path.write_text(DATA.format(sections=LABELS))
    assert symbols(path, kind="lammps-data") == "SiO"
    path.write_text(DATA.format(sections=MASSES.format(first=28.0855)))
    assert symbols(path, kind="lammps-data") == "SiO"
    path.write_text(DATA.format(sections=MASSES.format(first=10.0)))
    with pytest.raises(ValueError, match="but has the mass 10"):
        symbols(path, kind="lammps-data")


def test_frames_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ase.io.write(tmp_path / "run.xyz", [Atoms("H", [(k, 0, 0)]) for k in range(5)])

    def places(path: Path | str, **options: str) -> list[float]:
        return [atoms.positions[0, 0] for atoms in read_atoms(path, **options)]

    assert places(f"{tmp_path}/run.xyz@0:2") == [0, 1]
    assert places(f"{tmp_path}/run.xyz@-1") == [4]
    assert places(tmp_path / "run.xyz", index="1::2") == [1, 3]
    with pytest.raises(ValueError, match="at least one structure at 7, got none; the index leads beyond the last"):
        places(tmp_path / "run.xyz", index="7")
    monkeypatch.setattr("sys.stdin", io.StringIO((tmp_path / "run.xyz").read_text()))
    assert places("-") == [0, 1, 2, 3, 4]
    (tmp_path / "run.xyz").rename(tmp_path / "a@1")
    with pytest.raises(ValueError, match="must be like 0, -1, 0:10 or ::2, got 'last'"):
        places(tmp_path / "a@1", index="last")
    assert places(tmp_path / "a@1", kind="extxyz") == [0, 1, 2, 3, 4]
