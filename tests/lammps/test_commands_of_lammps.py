"""What a LAMMPS user expects of any pair style: units, restarts, minimise, rerun, atoms that come and go, ..."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from cases import water
from export_files import COMPILED, exported
from lammps_run import DUMP, OUTPUT, read_dump, read_result, run_lammps, thermo_of, write_data

from uip.plugins import lammps_plugin

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True).repeat((2, 1, 1))
ATOMS.rattle(0.05, seed=3)

START = """
units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
"""
PAIR = """
pair_style uip
pair_coeff * * {file} Ni O
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    return tmp_path


def pair(file: Path | None = None) -> str:
    return PAIR.format(file=file or exported("random", ".pt"))


def lammps(folder: Path, deck: str, num_ranks: int = 2, *arguments: str) -> str:
    """The screen output of a run that must succeed."""
    run = run_lammps(folder, deck, num_ranks, *arguments)
    assert run.code == 0, run.text[-3000:]
    return run.text


def printed(text: str, name: str) -> list[float]:
    """The numbers of the line `name ...` that a deck prints."""
    return [float(word) for word in re.findall(rf"^{name} (.*)$", text, re.M)[-1].split()]


def test_units_real(folder: Path) -> None:
    deck = "log log.{0}\n" + START + pair() + OUTPUT + "run 0\n" + DUMP.format(name="{0}", more="id")
    metal = "\n".join([deck.format("metal")])
    lammps(folder, metal)
    lammps(folder, metal.replace("units metal", "units real").replace("metal", "real"))
    one, other = read_result(folder, "metal"), read_result(folder, "real")
    kcal_per_mol = 23.060549  # of an eV, LAMMPS' number
    assert np.abs(other.forces - kcal_per_mol * one.forces).max() < 1e-8
    assert other.thermo["pe"] == pytest.approx(kcal_per_mol * one.thermo["pe"], rel=1e-12)
    assert other.thermo["virial3"] * 1.01325 == pytest.approx(one.thermo["virial3"], rel=1e-4)  # atm and bar


@pytest.mark.parametrize(
    "model", [pytest.param("random", marks=COMPILED), pytest.param("chgnet-0.3.0", marks=pytest.mark.slow)]
)
def test_compiled_and_script_agree(model: str, folder: Path) -> None:
    deck = "log log.{0}\n" + START + "{1}" + OUTPUT + "run 0\n" + DUMP.format(name="{0}", more="id")
    for suffix in (".pt", ".pt2"):
        lammps(folder, deck.format(suffix, pair(exported(model, suffix))))
    one, other = read_result(folder, ".pt"), read_result(folder, ".pt2")
    assert np.abs(one.forces).max() > 1e-3
    assert np.abs(one.forces - other.forces).max() < 1e-10


@pytest.mark.parametrize("model", ["random", pytest.param("chgnet-0.3.0", marks=pytest.mark.slow)])
def test_float32(model: str, folder: Path) -> None:
    """A file in single precision: 5e-5 eV/A from double, on one rank and on three."""
    deck = "log log.{0}\n" + START + "{1}" + OUTPUT + "run 0\n" + DUMP.format(name="{0}", more="id")
    results = []
    for dtype, num_ranks in (("float64", 1), ("float32", 1), ("float32", 3)):
        name = f"{dtype}{num_ranks}"
        lammps(folder, deck.format(name, pair(exported(model, ".pt", dtype))), num_ranks)
        results.append(read_result(folder, name))
    for single in results[1:]:
        assert np.abs(single.forces - results[0].forces).max() < 5e-5
        assert abs(single.thermo["pe"] - results[0].thermo["pe"]) < 5e-5 * len(ATOMS)
        assert np.abs(single.virial - results[0].virial).max() < 5e-5 * np.abs(results[0].virial).max()


def test_restart_continues_the_run(folder: Path) -> None:
    """Pair style, model and elements come out of the restart file; positions continue to 1e-8 A."""
    move = "fix move all nve\ntimestep 0.001\n"
    final = "write_dump all custom dump.{0} id x y z vx vy vz modify format float %.16g sort id\n"
    warm = "velocity all create 600 5 loop geom\n"
    lammps(folder, START + pair() + warm + move + "run 10\nwrite_restart half\nrun 10\n" + final.format("one"))
    text = lammps(folder, "read_restart half\n" + move + "run 10\n" + final.format("two"), 3)
    assert "pair uip: " in text
    one, two = (read_dump(folder / f"dump.{name}")[0] for name in ("one", "two"))
    assert np.abs(one - two).max() < 1e-8
    assert np.abs(one[:, 1:4] - ATOMS.positions).max() > 1e-3


def test_restart_of_a_charged_system(tmp_path: Path) -> None:
    """Charge and spin come out of the restart file, and a box that has changed means the same to all ranks."""
    write_data(water(2, 1), tmp_path / "data.atoms", ["H", "O"])
    file = exported("allscaip-full", ".pt")
    start = "units metal\nread_data data.atoms\nmass 1 1.008\nmass 2 15.999\n"
    style = f"pair_style uip {{}}\npair_coeff * * {file} H O\n"
    move = "velocity all create 300 1 loop geom\nfix move all npt temp 300 300 0.1 aniso 0 0 1\nneighbor 0.5 bin\n"
    first = start + style.format("charge -1 spin 2") + OUTPUT + move + "timestep 0.0005\nrun 5\nwrite_restart half\n"
    last = thermo_of(lammps(tmp_path, first, 2))[-1]
    text = lammps(tmp_path, "read_restart half\n" + OUTPUT + "run 0\n", 3)
    assert "total charge -1 e, multiplicity 2" in text
    again = thermo_of(text)[-1]
    assert again["pe"] == pytest.approx(last["pe"], rel=1e-12)
    assert [again[f"virial{k}"] for k in range(6)] == pytest.approx([last[f"virial{k}"] for k in range(6)], rel=1e-8)
    assert abs(last["lx"] - 6.2) > 1e-6
    neutral = thermo_of(lammps(tmp_path, "read_restart half\n" + style.format("") + OUTPUT + "run 0\n", 1))[-1]
    assert abs(neutral["pe"] - last["pe"]) > 1e-3


def test_restart_of_a_hybrid_style(folder: Path) -> None:
    """LAMMPS keeps the settings of hybrid styles, not their coefficients: pair_coeff is given again."""
    hybrid = "pair_style hybrid/overlay uip device cpu zero 5.0\n"
    coeff = f"pair_coeff * * uip {exported('random', '.pt')} Ni O\npair_coeff * * zero\n"
    step = "run 0\nprint 'ENERGY $(pe:%.16g)'\n"
    before = lammps(folder, START + hybrid + coeff + step + "write_restart half\n")
    after = lammps(folder, "read_restart half\n" + coeff + step)
    assert printed(before, "ENERGY") == pytest.approx(printed(after, "ENERGY"), abs=1e-9)


@pytest.mark.slow
def test_minimise(folder: Path) -> None:
    """With the published model rattled atoms return to the crystal."""
    file = exported("chgnet-0.3.0", ".pt")
    text = lammps(
        folder, START + pair(file) + "min_style cg\nminimize 0 1e-4 200 400\nprint 'FORCE $(fmax:%.16g)'\n", 2
    )
    assert printed(text, "FORCE")[0] < 1e-3


def test_rerun_gives_the_energies_of_the_run(folder: Path) -> None:
    deck = START + pair() + OUTPUT + "velocity all create 900 5 loop geom\nfix move all nve\nthermo 5\n"
    deck += (
        "dump frames all custom 5 frames id type x y z\ndump_modify frames format float %.16g\nrun 15\nundump frames\n"
    )
    rows = thermo_of(lammps(folder, deck + "rerun frames dump x y z\n", 3))
    assert len(rows) == 8
    for run, rerun in zip(rows[:4], rows[4:], strict=True):
        assert rerun["step"] == run["step"]
        assert rerun["pe"] == pytest.approx(run["pe"], abs=1e-9)
    assert abs(rows[0]["pe"] - rows[3]["pe"]) > 1e-4


def test_many_runs_one_after_the_other(folder: Path) -> None:
    """`run ... pre no`, another model, a changed box, `pair_style none` in between: always the energy of now."""
    step = "run 0\nprint 'NOW $(pe:%.16g)'\n"
    deck = START + pair() + "fix move all nve\nvelocity all create 300 1 loop geom\n"
    deck += "run 3\nrun 3 pre no post no\nrun 0 pre no\nprint 'PRE $(pe:%.16g)'\n" + step
    deck += "change_box all x scale 1.01 remap\n" + step + "pair_style none\n" + pair() + step
    text = lammps(folder, deck)
    now = [float(x) for x in re.findall(r"^NOW (.*)$", text, re.M)]
    assert printed(text, "PRE")[0] == pytest.approx(now[0], abs=1e-9)
    assert abs(now[1] - now[0]) > 1e-5
    assert now[2] == pytest.approx(now[1], abs=1e-9)


def test_atoms_come_and_go(folder: Path) -> None:
    """Deleted and deposited atoms: the same energy as that of a fresh run of what is left."""
    again = "write_data left.data nocoeff\n"
    deck = START + pair() + "delete_atoms random fraction 0.2 no all NULL 8 \nrun 0\n"
    deck += "region corner block 0 3 0 3 0 3\ncreate_atoms 2 single 2.0 2.1 2.0\nfix move all nve\nrun 5\n"
    text = lammps(folder, deck + "print 'ENERGY $(pe:%.16g) $(count(all))'\n" + again, 3)
    fresh = START.replace("data.atoms", "left.data") + pair() + "run 0\nprint 'ENERGY $(pe:%.16g) $(count(all))'\n"
    assert printed(lammps(folder, fresh, 1), "ENERGY") == pytest.approx(printed(text, "ENERGY"), abs=1e-6)
    assert printed(text, "ENERGY")[1] < len(ATOMS) + 1


@pytest.mark.parametrize("ensemble", ["npt temp 300 300 0.1 aniso 0 0 1", "npt temp 300 300 0.1 tri 0 0 1"])
def test_a_box_that_changes(ensemble: str, folder: Path) -> None:
    """The last step of an NPT run has the energy that a fresh run of its positions has."""
    tilt = "change_box all triclinic\n" if "tri" in ensemble else ""
    deck = START + tilt + pair() + OUTPUT + f"velocity all create 300 1 loop geom\nfix move all {ensemble}\n"
    deck += "neighbor 0.5 bin\nrun 30\n"
    last = thermo_of(lammps(folder, deck + "write_restart end\n", 2))[-1]
    again = thermo_of(lammps(folder, "read_restart end\n" + OUTPUT + "run 0\n", 1))[-1]
    assert again["pe"] == pytest.approx(last["pe"], abs=1e-8)
    assert [again[f"virial{k}"] for k in range(6)] == pytest.approx([last[f"virial{k}"] for k in range(6)], rel=1e-7)
    assert abs(last["lx"] - ATOMS.cell[0, 0]) > 1e-5


def test_partitions(folder: Path) -> None:
    """Two simulations at once in one mpiexec, each on two ranks of its own."""
    deck = "variable t universe 300 900\n" + START + pair() + "velocity all create $t 7 loop geom\nfix move all nve\n"
    deck += "run 5\nprint 'ENERGY $(etotal:%.16g)' file energy.$t\n"
    lammps(folder, deck, 4, "-partition", "2x2")
    alone = []
    for t in ("300", "900"):
        lammps(folder, deck.replace("universe 300 900", f"index {t}").replace("energy.", "alone."), 1)
        alone.append(float((folder / f"alone.{t}").read_text().split()[1]))
        assert float((folder / f"energy.{t}").read_text().split()[1]) == pytest.approx(alone[-1], abs=1e-8)
    assert abs(alone[0] - alone[1]) > 0.1


def test_compute_pair_counts(folder: Path) -> None:
    """The first seven numbers of `compute pair`: nothing is sent on one rank, and edges do not depend on ranks."""
    deck = START + pair() + "compute counts all pair uip\nthermo_style custom step pe c_counts[*]\nrun 0\n"
    deck += "print 'COUNTS " + " ".join(f"$(c_counts[{k}]:%.16g)" for k in range(1, 8)) + "'\n"
    one, two = (printed(lammps(folder, deck, ranks), "COUNTS") for ranks in (1, 2))
    assert one[0] == pytest.approx(two[0], abs=1e-9)  # sum of magmoms
    assert one[1] == 0  # ghosts
    assert two[1] == len(ATOMS)  # in so small a cell each rank sees all atoms of the other, each once
    assert one[2:4] == two[2:4]  # edges and angles
    assert one[4] == 0  # bytes
    assert two[4] > 0
    assert one[5] > 0  # seconds
    assert one[6] == 0  # messages
    assert two[6] > 0


def test_without_ids_and_with_threads(folder: Path) -> None:
    """`atom_modify id no` (as some engines of gas use) and `package omp`."""
    write_data(ATOMS, folder / "data.atoms", ["Ni", "O"])
    create = """
units metal
atom_modify id no
region box block 0 8 0 8 0 8
create_box 2 box
create_atoms 1 single 2 2 2
create_atoms 2 single 4 2.2 2
create_atoms 1 single 2.3 6 2
mass 1 58.69
mass 2 15.999
"""
    energies = []
    for ranks, arguments in ((1, ()), (2, ("-pk", "omp", "2", "-sf", "omp"))):
        text = lammps(folder, create + pair() + "run 0\nprint 'ENERGY $(pe:%.16g)'\n", ranks, *arguments)
        energies.append(printed(text, "ENERGY")[0])
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def test_wrong_mass_draws_a_warning(folder: Path) -> None:
    text = lammps(folder, START + pair().replace("Ni O", "O Ni") + "run 0\n")
    assert "LAMMPS type 1 is O with a mass of 58.69 g/mol, where 15.999 is usual" in text
    assert "LAMMPS type 2 is Ni" in text
    assert "with a mass of" not in lammps(folder, START + pair() + "run 0\n")


def test_plugin_load(folder: Path) -> None:
    """Any LAMMPS loads the file whose path `uip` tells."""
    deck = f"plugin load {lammps_plugin()}\n" + START + pair() + "run 0\nprint 'ENERGY $(pe)'\n"
    run = run_lammps(folder, deck, 1, variables={"LAMMPS_PLUGIN_PATH": ""})
    assert run.code == 0, run.text
    assert "ENERGY" in run.text


def test_centroid_virial_of_a_pair(tmp_path: Path) -> None:
    """Two atoms: the nine components are those of r (x) F, and their sum is the virial."""
    atoms = Atoms("NiO", [[4.0, 4.0, 4.0], [5.0, 5.2, 4.9]], cell=[12.0, 12.0, 12.0])
    write_data(atoms, tmp_path / "data.atoms", ["Ni", "O"])
    deck = "log log.two\n" + START + pair() + OUTPUT + "run 0\n" + DUMP.format(name="two", more="c_centroid[*]")
    lammps(tmp_path, deck, 2)
    result = read_result(tmp_path, "two")
    vector = result.positions[1] - result.positions[0]
    outer = np.outer(vector, result.forces[1])
    nine = [outer[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1))]
    assert result.virial_of_centroids == pytest.approx(nine, rel=1e-9)
    assert np.abs(nine).min() > 1e-6
