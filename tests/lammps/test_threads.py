"""Edges, lists and sums on several threads: the same bits as on one."""

from __future__ import annotations

from pathlib import Path

from ase.build import bulk
from lammps_run import run_lammps, write_data
from programs import Power, write_program

DECK = """
units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip
pair_coeff * * program.pt Ni O
velocity all create 900 1 loop geom
fix move all nve
neigh_modify every 1 delay 0 check no
compute centroid all centroid/stress/atom NULL pair
compute stress all stress/atom NULL pair
thermo_style custom step pe pxx pyy pzz pxy pxz pyz
run 2
print 'STATE $(pe:%.17g) $(pxx:%.17g) $(pyy:%.17g) $(pzz:%.17g) $(pxy:%.17g) $(pxz:%.17g) $(pyz:%.17g)'
write_dump all custom dump.end id fx fy fz c_stress[*] c_centroid[*] modify sort id format float %.17g
"""


def test_threads_change_no_bit(tmp_path: Path) -> None:
    """1200 atoms: enough for two threads to share blocks of centres and parts of neighbour lists."""
    cell = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    write_program(Power(0.1, -1.0), tmp_path / "program.pt", cell)
    atoms = cell.repeat((5, 5, 6))
    atoms.rattle(0.05, seed=0)
    write_data(atoms, tmp_path / "data.atoms", ["Ni", "O"])
    dumps, states = [], []
    for threads in ("1", "2"):
        run = run_lammps(tmp_path, DECK, 1, variables={"OMP_NUM_THREADS": threads})
        assert run.code == 0, run.text[-3000:]
        assert f"1 MPI tasks x {threads} OpenMP threads" in run.text
        dumps.append((tmp_path / "dump.end").read_text())
        states.append([line for line in run.text.splitlines() if line.startswith("STATE")])
    assert len(states[0]) == 1
    assert len(dumps[0].splitlines()) == len(atoms) + 9
    assert states[0] == states[1]
    assert dumps[0] == dumps[1]
