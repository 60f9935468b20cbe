"""Bytes and messages that ranks send in a step are those of the cost model (benchmarks/attention_model.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cases import water
from export_files import exported, source
from lammps_run import DUMP, OUTPUT, read_result, run_lammps, write_data

from uip.neighbors import build_graph, check_structure

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # at the end: one of its files is lammps.py
from attention_model import Traffic
from attention_ranks import modelled

DECK = """
log log.step
units metal
read_data data.atoms
mass 1 1.008
mass 2 15.999
pair_style uip attention {way}
pair_coeff * * {file} H O
fix move all nve
compute sent all pair uip
{output}
run 1
print "SENT $(c_sent[5]:%.0f) $(c_sent[7]:%.0f)"
{dump}
"""


@pytest.mark.parametrize(("name", "way"), [("allscaip-plain", "ring"), ("allscaip-radial", "gather")])
def test_what_is_sent_is_what_the_model_says(name: str, way: str, tmp_path: Path) -> None:
    """To the byte, from who owns what; in the second step, which has no new neighbour list."""
    atoms = water(3, 20)
    write_data(atoms, tmp_path / "data.atoms", ["H", "O"])
    dump = DUMP.format(name="step", more="")
    deck = DECK.format(way=way, file=exported(name, ".pt"), output=OUTPUT, dump=dump)
    run = run_lammps(tmp_path, deck, 3)
    assert run.code == 0, run.text[-3000:]
    sent = next(line.split()[1:] for line in run.text.splitlines() if line.startswith("SENT"))
    result, model = read_result(tmp_path, "step"), source(name)
    structure = check_structure(atoms.numbers, result.positions, result.cell, True)
    graph = build_graph(structure, model.cutoff, None, model.soft)
    parts = modelled(model, graph, result.proc.astype(int), 3, way == "ring")
    total = sum(parts.values(), Traffic(0, 0))
    assert [int(word) for word in sent] == [total.num_bytes, total.messages]
    assert min(part.num_bytes for part in parts.values()) > 0
