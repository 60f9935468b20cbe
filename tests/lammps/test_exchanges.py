"""The exchanges between ranks: each is the adjoint of its partner, opposite edges meet, and a lost one is noticed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from cases import CASES
from export_files import exported
from lammps_run import DUMP, OUTPUT, Result, read_result, run_lammps, write_data
from programs import Adjoint, Opposite, write_program

from uip.plugins import LIBRARIES

DECK = """
units metal
boundary {boundary}
{processors}
read_data data.atoms
mass * 28.0855
pair_style uip
pair_coeff * * {file} Si
{output}
fix moments all pair 1 uip magmoms 0
compute moment all reduce sum f_moments
thermo 1
fix move all nve
{after}
variable moment equal c_moment
run {steps}
print "MOMENT $(c_moment:%.16g)"
{dump}
"""


def uneven_atoms() -> Atoms:
    """Nine atoms in the first third of the box, one in the second, none in the last."""
    rng = np.random.default_rng(0)
    positions = [[1.0 + 2.2 * i, 3.0 + 2.2 * j, 3.0 + 2.2 * k] for i in range(2) for j in range(2) for k in range(2)]
    atoms = Atoms("Si10", [*positions, [5.0, 5.0, 5.0], [7.5, 4.0, 4.5]], cell=[21.0, 12.0, 12.0])
    atoms.positions += rng.uniform(-0.1, 0.1, (10, 3))
    return atoms


def run(folder: Path, file: Path, atoms: Atoms, num_ranks: int, **changes: str) -> tuple[Result, float]:
    """The last step, and the sum of the program's magmoms."""
    write_data(atoms, folder / "data.atoms", ["Si"])
    settings = {"boundary": "p p p", "processors": "", "after": "", "steps": "0", **changes}
    variables = {"LD_PRELOAD": str(dropping(folder, settings.pop("drop")))} if "drop" in settings else {}
    deck = "log log.atoms\n" + DECK.format(
        file=file, output=OUTPUT, dump=DUMP.format(name="atoms", more="f_moments"), **settings
    )
    ended = run_lammps(folder, deck, num_ranks, variables=variables)
    assert ended.code == 0, ended.text[-3000:]
    moment = next(line.split()[1] for line in ended.text.splitlines() if line.startswith("MOMENT"))
    return read_result(folder, "atoms"), float(moment)


def dropping(folder: Path, what: str) -> Path:
    """A library that makes `pair_style uip` lose the exchanges `what`."""
    source = folder / "drop.cpp"
    condition = f'std::strcmp(what, "{what}") == 0'
    source.write_text(
        f'#include <cstring>\nextern "C" bool uip_test_drops(const char *what) {{ return {condition}; }}\n'
    )
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(folder / "drop.so")], check=True)
    return folder / "drop.so"


UNEVEN = {"boundary": "f p p", "processors": "processors 3 1 1"}


@pytest.mark.parametrize("primitive", ["ghosts", "edges", "bonds", "all"])
def test_each_exchange_is_the_adjoint_of_its_partner(primitive: str, tmp_path: Path) -> None:
    """<A x, y> = <x, A' y>, summed over ranks that own nine atoms, one and none."""
    atoms = uneven_atoms()
    file = write_program(Adjoint(primitive, len(atoms)), tmp_path / "adjoint.pt", atoms)
    result, product = run(tmp_path, file, atoms, 3, **UNEVEN)
    assert sorted(np.unique(result.proc, return_counts=True)[1]) == [1, 9]
    assert abs(product) > 0.1
    assert abs(result.thermo["pe"]) < 1e-12


@pytest.mark.parametrize("drop", ["forward", "reverse"])
def test_without_an_exchange_nothing_is_adjoint(drop: str, tmp_path: Path) -> None:
    atoms = uneven_atoms()
    file = write_program(Adjoint("ghosts", len(atoms)), tmp_path / "adjoint.pt", atoms)
    result, _ = run(tmp_path, file, atoms, 3, drop=drop, **UNEVEN)
    assert abs(result.thermo["pe"]) > 1e-3


@pytest.mark.parametrize("num_ranks", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_an_edge_meets_its_opposite(num_ranks: int, tmp_path: Path) -> None:
    """Vectors of opposite edges cancel to the last bit, in cells smaller than the cutoff and after motion."""
    atoms = bulk("Si", a=5.43).repeat((1, 2, 1))
    atoms.set_cell(atoms.cell.cellpar(), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    file = write_program(Opposite(), tmp_path / "opposite.pt", atoms)
    after = "velocity all create 3000 4 loop geom\nneighbor 0.3 bin\nneigh_modify every 1 delay 0"
    result, squares = run(tmp_path, file, atoms, num_ranks, after=after, steps="40")
    assert squares > 100
    assert result.thermo["pe"] == 0.0


def test_a_lost_exchange_of_edges_is_seen(tmp_path: Path) -> None:
    atoms = bulk("Si", a=5.43, cubic=True)
    file = write_program(Opposite(), tmp_path / "opposite.pt", atoms)
    result, _ = run(tmp_path, file, atoms, 2, drop="edges")
    assert result.thermo["pe"] > 1.0


@pytest.mark.slow
def test_forces_are_wrong_without_an_exchange(tmp_path: Path) -> None:
    """The comparison of ranks has power: each exchange matters to the published model."""
    atoms = next(case.atoms for case in CASES if case.name == "cubic")
    file = exported("chgnet-0.3.0", ".pt")
    alone, _ = run(tmp_path, file, atoms, 1)
    for drop in ("", "forward", "reverse", "edges"):
        together, _ = run(tmp_path, file, atoms, 2, drop=drop)
        difference = np.abs(together.forces - alone.forces).max()
        assert difference < 1e-9 if drop == "" else difference > 1e-2, drop


def test_no_variable_of_the_environment_loses_an_exchange() -> None:
    """Tests preload a library for that; a variable left in a user's environment would spoil runs silently."""
    plugin = (LIBRARIES / "lammps" / "libuiplammps.so").read_bytes()
    assert b"uip_test_drops" in plugin  # what tests define
    assert b"UIP_DEBUG_DROP" not in plugin
