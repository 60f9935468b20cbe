"""Bytes and messages that ranks send in a step are those of the cost model (benchmarks/attention_model.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cases import water
from export_files import exported, source
from lammps_run import read_dump, run_lammps, write_data

from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from attention_model import Traffic
from attention_ranks import modelled

DECK = """
units metal
read_data data.atoms
mass 1 1.008
mass 2 15.999
pair_style uip attention {way}
pair_coeff * * {file} H O
fix move all nve
compute sent all pair uip
thermo_style custom step pe c_sent[*]
run 1
print "SENT $(c_sent[5]:%.0f) $(c_sent[7]:%.0f)"
write_dump all custom dump.step id proc x y z modify format float %.16g sort id
"""


@pytest.mark.parametrize(("name", "way"), [("allscaip-plain", "ring"), ("allscaip-radial", "gather")])
def test_traffic_is_that_of_the_cost_model(name: str, way: str, tmp_path: Path) -> None:
    """To the byte, from who owns what; in the second step, which has no new neighbour list."""
    atoms = water(3, 20)
    write_data(atoms, tmp_path / "data.atoms", ["H", "O"])
    run = run_lammps(tmp_path, DECK.format(way=way, file=exported(name, ".pt")), 3)
    assert run.code == 0, run.text[-3000:]
    sent = next(line.split()[1:] for line in run.text.splitlines() if line.startswith("SENT"))
    (frame,), model = read_dump(tmp_path / "dump.step"), source(name)
    structure = check_structure(atoms.numbers, frame[:, 2:5], atoms.cell.array, True)
    graph = build_graph(structure, model.cutoff, None, model.soft)
    parts = modelled(model, graph, frame[:, 1].astype(int), 3, way == "ring")
    total = sum(parts.values(), Traffic(0, 0))
    assert [int(word) for word in sent] == [total.num_bytes, total.messages]
    assert min(part.num_bytes for part in parts.values()) > 0
