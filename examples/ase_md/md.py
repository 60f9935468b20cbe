"""Molecular dynamics of nickel oxide with the published CHGNet, through ASE.

    python examples/ase_md/md.py

64 atoms, 300 K, 300 fs at constant energy. Prints the energy and the magnetic moments of nickel as it
goes, and draws the conservation of energy to examples/ase_md/energy.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from matplotlib.figure import Figure

from uip import Calculator

FIGURE = Path(__file__).parent / "energy.png"

atoms = bulk("NiO", "rocksalt", a=4.19, cubic=True).repeat(2)
atoms.calc = Calculator("chgnet-0.3.0")
thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
Stationary(atoms)
dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)

print(f"{'time / fs':>10}{'E_pot / eV':>14}{'E_total / eV':>15}{'T / K':>9}{'Ni moment / mu_B':>18}")
record = []
for _ in dynamics.irun(300):
    time, potential, total = dynamics.get_time() / units.fs, atoms.get_potential_energy(), atoms.get_total_energy()
    moment = atoms.get_magnetic_moments()[atoms.numbers == 28].mean()
    record.append((time, potential, total))
    if dynamics.nsteps % 30 == 0:
        print(f"{time:10.0f}{potential:14.4f}{total:15.5f}{atoms.get_temperature():9.1f}{moment:18.3f}")

time, potential, total = np.array(record).T
drift = np.polyfit(time / 1000, total, 1)[0] / len(atoms) * 1000
figure = Figure(figsize=(6, 3.5), layout="constrained")
axes = figure.add_subplot()
axes.plot(time, (potential - potential[0]) / len(atoms) * 1000, label="potential energy")
axes.plot(time, (total - total[0]) / len(atoms) * 1000, label="total energy")
axes.set(xlabel="time / fs", ylabel="change / meV per atom", title=f"NiO, CHGNet 0.3.0: drift {drift:+.3f} meV/atom/ps")
axes.legend()
figure.savefig(FIGURE, dpi=150)
print(f"drift of the total energy: {drift:+.4f} meV/atom/ps; neighbour searches: {atoms.calc.neighbors.num_searches}")
print(f"figure: {FIGURE}")
