"""The files that code in README and docs reads: structures, a data set, a training run, models."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import ase.io
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import calibrated, random_chgnet
from export_files import exported
from fairchem_files import CHECKPOINT

from uip.checkpoint import save_checkpoint

RUN = """
[model]
architecture = { num_elements = 30, channels = 8, num_layers = 3, num_radial = 5, num_angular = 5, num_readout = 1 }
[data]
train = "labelled.xyz"
validation_fraction = 0.25
batch_size = 4
[run]
folder = "run"
epochs = 2
device = "cpu"
threads = 1
"""


def spinel() -> Atoms:
    """Li, Mn and O in a box, not a spinel: small and right for the deck's types."""
    atoms = bulk("MnO", "rocksalt", a=4.4, cubic=True).repeat((2, 1, 1))
    atoms.symbols[0] = "Li"
    return atoms


def hydroxide() -> Atoms:
    """Seven water molecules and OH- on a cubic grid."""
    atoms = Atoms(cell=[6.2] * 3, pbc=True)
    for corner in range(8):
        water = molecule("H2O")
        water.euler_rotate(37.0 * corner, 61.0 * corner, 13.0 * corner)
        water.translate([3.1 * (corner >> axis & 1) + 1.5 for axis in range(3)])
        atoms += water
    del atoms[-1]
    return atoms


def write_labelled(path: Path) -> None:
    from uip import Calculator

    frames, calculator = [], Calculator(random_chgnet())
    for seed in range(8):
        atoms = bulk("NiO", "rocksalt", a=4.2)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = calculator
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(path, frames)


def write_energies(path: Path) -> None:
    """Structures with energies alone."""
    frames = [bulk("NiO", "rocksalt", a=4.2) for _ in range(50)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.02 + 0.002 * seed, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-5.0 + 0.01 * seed)
    ase.io.write(path, frames)


def write_calibrated(path: Path) -> None:
    save_checkpoint(calibrated(random_chgnet()), path)


def write_dump(path: Path) -> None:
    """A LAMMPS dump without elements."""
    atoms = spinel()
    lines = ["ITEM: TIMESTEP", "0", "ITEM: NUMBER OF ATOMS", str(len(atoms)), "ITEM: BOX BOUNDS pp pp pp"]
    lines += [f"0 {length}" for length in atoms.cell.lengths()] + ["ITEM: ATOMS id type x y z"]
    types = [["Li", "Mn", "O"].index(symbol) + 1 for symbol in atoms.symbols]
    lines += [f"{k + 1} {types[k]} {x} {y} {z}" for k, (x, y, z) in enumerate(atoms.positions)]
    path.write_text("\n".join(lines) + "\n")


def write_data(path: Path) -> None:
    ase.io.write(path, spinel(), format="lammps-data", specorder=["Li", "Mn", "O"], masses=True)


def write_cell(path: Path) -> None:
    ase.io.write(path, bulk("NiO", "rocksalt", a=4.2))


def write_molecule(path: Path) -> None:
    ase.io.write(path, molecule("H2O"))


def write_member(path: Path) -> None:
    """One of a committee: its weights depend on its name."""
    save_checkpoint(random_chgnet(seed=ord(path.stem)), path)


INPUTS: dict[str, Callable[[Path], object]] = {
    "POSCAR": write_cell,
    "more.cif": write_cell,
    "crystal.cif": write_cell,
    "dump.lammpstrj": write_dump,
    "labelled.xyz": write_labelled,
    "pbe.xyz": write_labelled,
    "r2scan.xyz": write_labelled,
    "energies.xyz": write_energies,
    "calibrated.ckpt": write_calibrated,
    "a.ckpt": write_member,
    "b.ckpt": write_member,
    "c.ckpt": write_member,
    "molecule.xyz": write_molecule,
    "big.xyz": write_molecule,
    "run.toml": lambda path: path.write_text(RUN),
    "spinel.data": write_data,
    "hydroxide.xyz": lambda path: ase.io.write(path, hydroxide()),
    "AllScAIP-OMol102M-md-cons.pt": lambda path: shutil.copy(CHECKPOINT, path),
}
"""Name of a file in the documentation, and how to make one."""

MODELS = {
    "chgnet.pt2": "chgnet-0.3.0",
    "allscaip.pt2": "allscaip-plain",
    "a.pt2": "random",
    "b.pt2": "random1",
    "c.pt2": "random2",
}
"""Exported files, and what `exported` calls their models."""


def prepare(text: str, folder: Path, *, compiled: bool) -> None:
    """Put the files that `text` mentions into `folder`; exported files, if a command of the page
    writes them: CHGNet as ".pt2" if `compiled`, else ".pt" under the same name, which readers do not look at."""
    for name, write in INPUTS.items():
        if name in text:
            write(folder / name)
    if "run.toml" in text:
        write_labelled(folder / "labelled.xyz")
    for name, model in MODELS.items():
        if re.search(rf"^uip export \S+ -o {name} *(#.*)?$", text, re.M):
            suffix = ".pt2" if compiled and model.startswith("chgnet") else ".pt"
            shutil.copy(exported(model, suffix), folder / name)
