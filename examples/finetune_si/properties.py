"""Properties of silicon with one or more models, from ASE and from LAMMPS, beside DFT and experiment: properties.json.

    python properties.py chgnet-0.3.0 run_silicon/best.ckpt

Lattice constant; elastic constants with relaxed atoms; bulk modulus from an equation of state; formation energy of a
vacancy in 216 sites, at the volume of the crystal; highest frequency of phonons at the centre of the zone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState
from ase.stress import voigt_6_to_full_3x3_strain
from ase.units import GPa
from ase.vibrations import Vibrations
from rich.console import Console
from rich.table import Table

from uip import Calculator
from uip.plugins import lammps_plugin_folder
from uip.relax import relax

FOLDER = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
STRAIN = 0.01
"""Of elastic constants. Stresses of CHGNet are not linear in the strain: with 0.005 some differ by half."""
REPEATS = 3
"""Cubic cells along each side of the crystal with the vacancy."""
FORCES = {"fmax": 1e-3, "optimizer": "lbfgs"}
TITLES = {
    "lattice": "lattice constant, A",
    "c11": "C11, GPa",
    "c12": "C12, GPa",
    "c44": "C44, GPa",
    "bulk": "bulk modulus, GPa",
    "vacancy": "vacancy, eV",
    "phonon": "highest phonon, THz",
}
PUBLISHED = {
    "DFT (PBE)": {"lattice": 5.469, "c11": 156.0, "c12": 65.0, "c44": 76.0, "bulk": 95.0, "vacancy": 3.25},
    "experiment": {"lattice": 5.431, "c11": 165.8, "c12": 63.9, "c44": 79.6, "bulk": 97.9, "phonon": 15.6},
}
"""DFT: Zuo et al., J. Phys. Chem. A 124, 731 (2020). Experiment: room temperature; elastic constants by McSkimin and
Andreatch, J. Appl. Phys. 35, 2161 (1964), the phonon by Raman scattering (520 cm^-1)."""


def of_ase(model: str, repeats: int = REPEATS) -> dict[str, float]:
    """The properties from ASE."""
    calculator = Calculator(model, dtype="float64")
    crystal = relax(bulk("Si", a=5.46, cubic=True), calculator, cell=True, **FORCES).atoms
    elastic = elastic_constants(crystal, calculator)
    return {
        "lattice": float(crystal.cell.lengths()[0]),
        "c11": float(elastic[0, 0]),
        "c12": float(elastic[0, 1]),
        "c44": float(elastic[3, 3]),
        "bulk": bulk_modulus(crystal, calculator),
        "vacancy": vacancy_energy(crystal, calculator, repeats),
        "phonon": highest_frequency(crystal, calculator),
    }


def elastic_constants(crystal: Atoms, calculator: Calculator) -> np.ndarray:
    """GPa, (6, 6) in the order xx yy zz yz xz xy: differences of the stress, with relaxed atoms."""
    result = np.zeros((6, 6))
    for j in range(6):
        for sign in (-1, 1):
            deformation = voigt_6_to_full_3x3_strain(sign * STRAIN * np.eye(6)[j])
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ deformation, scale_atoms=True)
            strained = relax(strained, calculator, **FORCES).atoms
            result[:, j] += sign * strained.get_stress() / (2 * STRAIN * GPa)
    return result


def bulk_modulus(crystal: Atoms, calculator: Calculator) -> float:
    """GPa, of a Birch-Murnaghan equation; symmetry holds the atoms in place."""
    volumes, energies = [], []
    for scale in np.linspace(0.97, 1.03, 7):
        strained = crystal.copy()
        strained.set_cell(scale * crystal.cell.array, scale_atoms=True)
        strained.calc = calculator
        volumes.append(strained.get_volume())
        energies.append(strained.get_potential_energy())
    return float(EquationOfState(volumes, energies, eos="birchmurnaghan").fit()[2] / GPa)


def vacancy_energy(crystal: Atoms, calculator: Calculator, repeats: int) -> float:
    """eV, relative to atoms of the crystal."""
    large = crystal.repeat(repeats)
    large.calc = calculator
    removed = large.copy()
    del removed[0]
    relaxed = relax(removed, calculator, **FORCES).atoms
    return float(relaxed.get_potential_energy() - (1 - 1 / len(large)) * large.get_potential_energy())


def highest_frequency(crystal: Atoms, calculator: Calculator) -> float:
    """THz; of vibrations that are equal in all cubic cells."""
    atoms = crystal.copy()
    atoms.calc = calculator
    with TemporaryDirectory() as folder:
        vibrations = Vibrations(atoms, name=f"{folder}/vibrations")
        vibrations.run()
        energies = vibrations.get_energies().real
    return float(energies.max() / 4.135667696e-3)


def of_lammps(model: str, repeats: int = REPEATS) -> dict[str, float]:
    """The properties from LAMMPS: in.properties, and in.elastic of the example decks."""
    environment = {**os.environ}
    if not any(point.name == "uip" for point in entry_points(group="lammps.plugins")):
        environment["LAMMPS_PLUGIN_PATH"] = lammps_plugin_folder()  # uip is not installed, only built
    with TemporaryDirectory() as folder:
        export = [BIN / "uip", "export", model, "-o", f"{folder}/si.pt", "--dtype", "float64"]
        subprocess.run(export, check=True)
        elastic = FOLDER.parent / "lammps_decks" / "in.elastic"
        variables = ["-var", "model", "si.pt", "-var", "data", "silicon.data", "-var", "elements", "Si"]
        variables += ["-var", "repeats", str(repeats), "-var", "e", str(STRAIN)]
        text = ""
        for deck in (FOLDER / "in.properties", elastic):
            command = [BIN / "lmp", "-in", deck, *variables]
            done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            text += done.stdout
        eigenvalues = np.linalg.eigvalsh(symmetric(np.loadtxt(f"{folder}/dynamical_matrix.dat").reshape(24, 24)))
    rows = {name: [float(x) for x in line.split()] for name, line in re.findall(r"^C (\w\w) (.*)$", text, re.M)}
    return {
        "lattice": printed(text, "lattice"),
        "c11": rows["xx"][0],
        "c12": rows["xx"][1],
        "c44": rows["yz"][3],
        "vacancy": printed(text, "vacancy"),
        "phonon": float(np.sqrt(eigenvalues[-1]) / (2 * np.pi)),  # eskm: 1 / ps^2
    }


def symmetric(matrix: np.ndarray) -> np.ndarray:
    return 0.5 * (matrix + matrix.T)


def printed(text: str, name: str) -> float:
    """A number that a deck printed."""
    return float(re.findall(rf"^{name} (\S+)$", text, re.M)[-1])


def main(models: list[str]) -> None:
    """Write properties.json and print a table."""
    columns = dict(PUBLISHED)
    for model in models:
        columns |= {f"{model}, ASE": of_ase(model), f"{model}, LAMMPS": of_lammps(model)}
    (FOLDER / "properties.json").write_text(json.dumps(columns, indent=1) + "\n")
    table = Table("", *columns)
    for key, title in TITLES.items():
        digits = 3 if key == "lattice" else 2 if key == "vacancy" else 1
        table.add_row(title, *(f"{column[key]:.{digits}f}" if key in column else "" for column in columns.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
