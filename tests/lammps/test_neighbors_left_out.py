"""Neighbour lists that lack pairs: refused, except for the atoms that a fix of the MC package tries to delete."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase.build import bulk
from lammps_run import run_lammps, write_data
from programs import Failing, Triple, write_program
from torch import Tensor, nn

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
START = """
units metal
{style}read_data data.atoms
mass 1 58.69
mass 2 15.999
pair_style uip
pair_coeff * * {file} Ni O
"""


class AtomicEnergies(nn.Module):
    """-2 eV for each atom, without interactions."""

    def forward(
        self,
        atomic_numbers: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        edge_vec: Tensor,
        reverse_edge: Tensor,
        bond_index: Tensor,
        reverse_bond: Tensor,
        angle_index: Tensor,
    ) -> Triple:
        energy = torch.full((graph_index.shape[0],), -2.0, dtype=torch.float64)
        return energy, torch.zeros_like(edge_vec), torch.zeros_like(energy)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    return tmp_path


def to_bond_style(data: str) -> str:
    """A data file of atom_style atomic as one of atom_style bond, all atoms in one molecule."""
    head, atoms = data.split("Atoms # atomic\n\n")
    rows = (line.split() for line in atoms.splitlines())
    return head + "Atoms # bond\n\n" + "".join(" ".join([row[0], "1", *row[1:]]) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("form", "style"),
    [
        ("exclude type 1 2", ""),
        ("exclude group all all", ""),
        ("exclude molecule/intra all", "atom_style bond\nspecial_bonds lj/coul 1 1 1\n"),
        ("include some", "atom_modify first some\n"),
    ],
)
def test_pairs_left_out(form: str, style: str, folder: Path) -> None:
    file = write_program(Failing("nothing", 0), folder / "program.pt", ATOMS)
    data = folder / "data.atoms"
    if "bond" in style:
        data.write_text(to_bond_style(data.read_text()))
    deck = START.format(file=file, style=style) + f"group some type 1\nneigh_modify {form}\n"
    run = run_lammps(folder, deck + "run 0\n", 2)
    assert run.code != 0
    text = " ".join(run.text.split())
    assert "needs all neighbours, but 'neigh_modify exclude' (or 'include') leaves some out" in text
    assert "'fix ID group setforce 0 0 0'" in text
    if "exclude" in form:
        run = run_lammps(folder, deck + "neigh_modify exclude none\nrun 0\n", 1)
        assert run.code == 0, run.text


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_deletion_in_the_grand_canonical_ensemble(num_ranks: int, folder: Path) -> None:
    """An atom that `fix gcmc` tries to delete takes its own energy along: 2 eV, so that none is deleted."""
    file = write_program(AtomicEnergies(), folder / "program.pt", ATOMS)
    deck = START.format(file=file, style="") + "fix mc all gcmc 1 10 0 1 7 300 -1.0 0.1 full_energy\n"
    deck += "run 3\nrun 3\nprint 'MOVES $(f_mc[3]) $(f_mc[4]) $(f_mc[5]) $(f_mc[6])'\n"
    run = run_lammps(folder, deck, num_ranks)
    assert run.code == 0, run.text[-3000:]
    line = next(line for line in run.text.splitlines() if line.startswith("MOVES"))
    assert [float(word) > 0 for word in line.split()[1:]] == [True, True, True, False], line
