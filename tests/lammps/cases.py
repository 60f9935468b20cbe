"""Structures and decks that must give the same numbers in LAMMPS as in Python, on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from export_files import exported
from lammps_run import DUMP, OUTPUT, write_data

RANDOM = ("random", ".pt")
PUBLISHED = ("chgnet-0.3.0", ".pt2")


def rattled(atoms: Atoms, seed: int, by: float = 0.08) -> Atoms:
    atoms.rattle(by, seed=seed)
    return atoms


def droplet() -> Atoms:
    """Water and a far atom in one corner of a large open box: with four ranks, three own nothing."""
    water = molecule("H2O")
    water.positions += [4.0, 4.0, 4.0]
    second = molecule("H2O")
    second.rotate(70, (1, 2, 3))
    second.positions += [6.6, 4.5, 3.8]
    atoms = rattled(water + second + Atoms("O", [[11.0, 4.0, 4.0]]), 4, 0.03)
    atoms.set_cell([60.0, 60.0, 60.0])
    return atoms


def water(side: int, seed: int) -> Atoms:
    """Molecules on a cubic grid, turned at random."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=[3.1 * side] * 3)
    for place in np.ndindex(side, side, side):
        molecule_ = molecule("H2O")
        molecule_.euler_rotate(*rng.uniform(0.0, 360.0, 3))
        molecule_.positions += 3.1 * (np.array(place) + 0.5)
        atoms += molecule_
    return rattled(atoms, seed, 0.03)


def far_atom() -> Atoms:
    """Water, and an atom without neighbours in another corner: ranks with edges, with an atom alone, with nothing."""
    atoms = rattled(molecule("H2O"), 5, 0.03)
    atoms.positions += [8.0, 8.0, 8.0]
    return Atoms(atoms + Atoms("O", [[30.0, 30.0, 30.0]]), cell=[40.0, 40.0, 40.0])


def slab() -> Atoms:
    atoms = bulk("Al", "fcc", a=4.05, cubic=True).repeat((2, 2, 2))
    atoms.center(vacuum=8.0, axis=2)
    return rattled(atoms, 3)


def triclinic() -> Atoms:
    """A crystal in a strongly tilted cell."""
    atoms = bulk("MgO", "rocksalt", a=4.21).repeat((2, 2, 2))
    atoms.set_cell(atoms.cell.cellpar(), scale_atoms=True)  # lower triangular, same shape
    strain = np.array([[1.02, 0.0, 0.0], [0.10, 0.97, 0.0], [-0.06, 0.08, 1.01]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return rattled(atoms, 2, 0.05)


@dataclass(frozen=True)
class LennardJones:
    """A second style: `pair_style lj/cut`, shifted to zero at its cutoff, for the listed pairs of elements."""

    epsilon: float
    sigma: float
    cutoff: float
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    name: str
    atoms: Atoms
    boundary: str = "p p p"
    before: str = ""
    """Commands before the box exists."""
    after: str = ""
    """Commands after everything is defined, before the first run."""
    steps: int = 0
    lj: LennardJones | None = None
    unseen: str = ""
    """An element that the model does not see (NULL)."""
    model: tuple[str, ...] = RANDOM
    """Name, suffix and, if not float64, precision of an exported file."""
    charge: int = 0
    spin: int = 1
    attention: str = "auto"
    symbols: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", sorted(set(self.atoms.get_chemical_symbols())))

    @property
    def is_chgnet(self) -> bool:
        return not self.model[0].startswith("allscaip")

    def pair_commands(self, model: str) -> str:
        words = " ".join("NULL" if symbol == self.unseen else symbol for symbol in self.symbols)
        style = f"uip charge {self.charge} spin {self.spin} attention {self.attention}"
        if self.lj is None:
            return f"pair_style {style}\npair_coeff * * {model} {words}"
        lines = [f"pair_style hybrid/overlay {style} lj/cut {self.lj.cutoff}", f"pair_coeff * * uip {model} {words}"]
        for pair in self.lj.pairs:
            i, j = sorted(self.symbols.index(symbol) + 1 for symbol in pair)
            lines.append(f"pair_coeff {i} {j} lj/cut {self.lj.epsilon} {self.lj.sigma}")
        return "\n".join([*lines, "pair_modify pair lj/cut shift yes"])

    def deck(self, folder: Path) -> str:
        """Commands that begin with `clear`, so that decks can be joined; writes the data file into `folder`."""
        write_data(self.atoms, folder / f"data.{self.name}", self.symbols)
        moments = "fix moments all pair 1 uip magmoms 0" if self.is_chgnet else ""
        masses = "\n".join(f"mass {k + 1} {Atoms(symbol).get_masses()[0]}" for k, symbol in enumerate(self.symbols))
        return f"""
clear
log log.{self.name}
units metal
boundary {self.boundary}
{self.before}
read_data data.{self.name}
{masses}
{self.pair_commands(str(exported(*self.model)))}
{OUTPUT}
{moments}
timestep 0.002
fix move all nve
{self.after}
thermo 1000000
run {self.steps}
{DUMP.format(name=self.name, more="f_moments" if moments else "")}
"""


SILICON = bulk("Si", a=5.43, cubic=True)
WARM = "velocity all create 4000 12 loop geom\nneigh_modify every 1 delay 0 check yes\nneighbor 0.5 bin"

FULL = ("allscaip-full", ".pt")

CASES = (
    Case("cubic", rattled(SILICON.repeat((2, 2, 1)), 1)),
    Case("small_cell", rattled(bulk("NiO", "rocksalt", a=4.17, cubic=True), 5)),
    Case("one_atom_cell", bulk("Cu", "sc", a=2.4)),
    Case("triclinic", triclinic()),
    Case("slab", slab(), boundary="p p f"),
    Case("shrink_wrapped", slab(), boundary="p p s"),
    Case("droplet", droplet(), boundary="f f f"),
    Case(
        "tiled",
        rattled(SILICON.repeat((2, 2, 2)), 6),
        before="comm_style tiled",
        after="balance 1.0 rcb",
    ),
    Case("newton_off", rattled(SILICON.repeat((1, 2, 1)), 7), before="newton off"),
    Case(
        "overlay",
        rattled(bulk("NiO", "rocksalt", a=4.17, cubic=True), 8),
        lj=LennardJones(0.05, 2.5, 7.0, (("Ni", "Ni"), ("Ni", "O"), ("O", "O"))),
    ),
    Case(
        "unseen",
        rattled(bulk("NiO", "rocksalt", a=4.17, cubic=True).repeat((2, 1, 1)), 9)
        + Atoms("He2", [[1.1, 1.0, 1.2], [5.0, 3.2, 3.1]]),
        lj=LennardJones(0.01, 1.5, 5.0, (("He", "He"), ("He", "Ni"), ("He", "O"))),
        unseen="He",
    ),
    Case("moved", rattled(SILICON.repeat((2, 1, 1)), 10), after=WARM, steps=100),
    Case(
        "moved_tiled",
        rattled(SILICON.repeat((2, 2, 2)), 11),
        before="comm_style tiled",
        after=WARM + "\nfix even all balance 10 1.0 rcb",
        steps=20,
    ),
    Case("plain_water", water(2, 12), model=("allscaip-plain", ".pt"), attention="ring"),
    Case("angular_crystal", triclinic(), model=("allscaip-angular", ".pt")),
    Case("radial_crystal", triclinic(), model=("allscaip-radial", ".pt")),
    Case("full_slab", slab(), boundary="p p f", model=FULL, charge=1),
    Case("full_droplet", droplet(), boundary="f f f", model=FULL, charge=-1, spin=2, attention="ring"),
    Case("full_far_atom", far_atom(), boundary="f f f", model=FULL, attention="ring"),
    Case(
        "full_unseen",
        water(2, 14) + Atoms("He", [[3.1, 3.1, 3.1]]),
        lj=LennardJones(0.01, 1.5, 5.0, (("He", "He"), ("He", "H"), ("He", "O"))),
        unseen="He",
        model=FULL,
        charge=2,
    ),
    Case(
        "full_moved_tiled",
        water(3, 16),
        before="comm_style tiled",
        after=WARM + "\nfix even all balance 5 1.0 rcb",
        steps=10,
        model=FULL,
        attention="gather",
    ),
)
