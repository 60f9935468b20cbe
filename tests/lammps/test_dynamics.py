"""Long runs with the published model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from export_files import exported
from lammps_run import run_lammps, write_data

DECK = """
units metal
read_data data.atoms
mass 1 28.0855
pair_style uip
pair_coeff * * {file} Si
velocity all create 600 4928459 loop geom
fix move all nve
timestep 0.001
variable etotal equal etotal
fix energy all print 5 "$(time) $(v_etotal:%.12g)" file energy.txt screen no
run {steps}
"""


def drift(folder: Path, repeat: tuple[int, int, int], steps: int, num_ranks: int) -> float:
    """meV/atom/ps, of a straight line through the total energy of silicon near 300 K; the first 0.1 ps left out."""
    atoms = bulk("Si", a=5.47, cubic=True).repeat(repeat)
    write_data(atoms, folder / "data.atoms", ["Si"])
    deck = DECK.format(file=exported("chgnet-0.3.0", ".pt2"), steps=steps)
    run = run_lammps(folder, deck, num_ranks, limit=7200)
    assert run.code == 0, run.text[-3000:]
    time, energy = np.loadtxt(folder / "energy.txt").T
    settled = time > 0.1
    return float(np.polyfit(time[settled], energy[settled], 1)[0]) / len(atoms) * 1000


@pytest.mark.long
@pytest.mark.slow
def test_energy_is_conserved(tmp_path: Path) -> None:
    """2 ps at 1 fs, float64, two ranks."""
    assert abs(drift(tmp_path, (2, 1, 1), 2000, 2)) < 0.02
