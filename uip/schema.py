"""All tensors exchanged between models, programs and engines: name, shape, dtype, unit, what they index.

Batching (`uip.graph.batch`), the table in docs/conventions.md and `csrc/schema.h` come from this list.
`python -m uip.schema` rewrites the two generated files, `python -m uip.schema --check` compares them.

Shape letters: N owned atoms, R rows (owned atoms first, then ghosts; N in serial runs), E directed
edges, S bonds (edges that carry angles or messages: those within the angle cutoff, or those to soft nearest
neighbours), A angles, B graphs, M nearest neighbours, K largest number of bonds of an atom, H features of the last
layer.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCHEMA_VERSION = 1
"""Increased by one when a field changes its name, shape or meaning; readers refuse newer files."""

MAX_CHARGE, MAX_SPIN = 100, 100
"""Total charges lie within +-`MAX_CHARGE` e, multiplicities within 0 .. `MAX_SPIN`; 0 marks data without spin."""


@dataclass(frozen=True)
class Field:
    """One tensor of the schema."""

    name: str
    shape: tuple[str, ...]
    """Shape letters (see above) and fixed sizes, for example ("E", "3")."""
    dtype: str
    """"real" (float32 or float64, one choice per program), "int64" or "bool"."""
    unit: str
    text: str
    indexes: str = ""
    """For index tensors: the shape letter of the rows that the entries index; batching adds an offset to them."""

    @property
    def batch_axis(self) -> int:
        """The axis along which the tensors of several graphs are joined."""
        return next(axis for axis, letter in enumerate(self.shape) if letter.isalpha())

    @property
    def is_padded(self) -> bool:
        """Whether rows differ in length and are padded with -1."""
        return len(self.shape) > 1 and all(size.isalpha() for size in self.shape)

    @property
    def letter(self) -> str:
        """The shape letter of the batch axis."""
        return self.shape[self.batch_axis]


INPUTS = (
    Field("atomic_numbers", ("R",), "int64", "", "1 = H; ghosts after owned atoms"),
    Field("positions", ("N", "3"), "real", "A", "as given, not wrapped into the cell"),
    Field("cell", ("B", "3", "3"), "real", "A", "rows a, b, c; a missing cell vector is a zero row"),
    Field("pbc", ("B", "3"), "bool", "", "periodic along a, b, c"),
    Field("graph_index", ("N",), "int64", "", "graph of each owned atom", "B"),
    Field("edge_index", ("2", "E"), "int64", "", "row 0 = centre i, row 1 = neighbour j; sorted by i", "R"),
    Field("shifts", ("E", "3"), "int64", "cells", "whole cells added to j"),
    Field("edge_vec", ("E", "3"), "real", "A", "r_j - r_i + shifts @ cell"),
    Field("reverse_edge", ("E",), "int64", "", "the edge (j -> i) with the opposite vector", "E"),
    Field("bond_index", ("S",), "int64", "", "the edges that are bonds, ascending", "E"),
    Field("reverse_bond", ("S",), "int64", "", "the bond (j -> i) with the opposite vector", "S"),
    Field("angle_index", ("2", "A"), "int64", "", "two different bonds with the same centre; sorted by the first", "S"),
    Field("nearest_edges", ("N", "M"), "int64", "", "an atom's edges to its nearest neighbours, padded with -1", "E"),
    Field("bond_slots", ("N", "K"), "int64", "", "an atom's bonds, padded with -1", "S"),
    Field("charge", ("B",), "int64", "e", "total charge"),
    Field("spin", ("B",), "int64", "", "spin multiplicity 2S + 1"),
)

OUTPUTS = (
    Field("energy", ("B",), "real", "eV", "total, never per atom"),
    Field("node_energy", ("N",), "real", "eV", "an atom's part of the energy"),
    Field("edge_grad", ("E", "3"), "real", "eV/A", "dE / d edge_vec"),
    Field("position_grad", ("N", "3"), "real", "eV/A", "dE / d positions, without the part in edge_grad"),
    Field("strain_grad", ("N", "3", "3"), "real", "eV", "an atom's part of dE / d eps, without the part in edge_grad"),
    Field("forces", ("N", "3"), "real", "eV/A", "-dE / d positions"),
    Field("virial", ("B", "3", "3"), "real", "eV", "-stress * V (LAMMPS sign): minus the strain derivative dE / d eps"),
    Field("stress", ("B", "3", "3"), "real", "eV/A^3", "dE / d eps / V, positive under tension (ASE sign)"),
    Field("magmoms", ("N",), "real", "mu_B", "magnitude"),
    Field("energy_deviation", ("B",), "real", "eV", "of a committee: standard deviation of the energy"),
    Field("force_deviation", ("N",), "real", "eV/A", "of a committee: square root of the variance of the force"),
    Field("virial_deviation", ("B", "3", "3"), "real", "eV/atom", "of a committee: standard deviation of virial / N"),
    Field("energy_uncertainty", ("B",), "real", "eV", "of a calibrated model: standard deviation of the energy"),
    Field("node_uncertainty", ("N",), "real", "eV", "of a calibrated model: standard deviation of an atom's energy"),
    Field("uncertainty_vectors", ("N", "H"), "real", "eV", "the length of a sum is the uncertainty of its energy"),
)

FIELDS = {field.name: field for field in INPUTS + OUTPUTS}


def conventions_table() -> str:
    """The markdown tables of docs/conventions.md."""
    lines = []
    for title, fields in (("Inputs", INPUTS), ("Outputs", OUTPUTS)):
        lines += [
            f"### {title}",
            "",
            "| name | shape | dtype | unit | indexes rows of | meaning |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{f.name}` | {' '.join(f.shape)} | {f.dtype} | {f.unit} | {f.indexes} | {f.text} |" for f in fields
        ]
        lines.append("")
    return "\n".join(lines)


def cpp_header() -> str:
    """The text of csrc/schema.h: names and version for C++."""
    lines = [
        "// Written by `python -m uip.schema` from uip/schema.py; do not edit.",
        "#pragma once",
        "",
        "namespace uip::schema {",
        "",
        f"constexpr int version = {SCHEMA_VERSION};",
        "// Limits of total charge (+-, e) and multiplicity (0 .. )",
        f"constexpr int max_charge = {MAX_CHARGE}, max_spin = {MAX_SPIN};",
        "",
    ]
    for title, fields in (("Inputs", INPUTS), ("Outputs", OUTPUTS)):
        lines.append(f"// {title}")
        for f in fields:
            unit = f", {f.unit}" if f.unit else ""
            lines.append(f"// [{' '.join(f.shape)}] {f.dtype}{unit}: {f.text}")
            lines.append(f'constexpr const char *{f.name} = "{f.name}";')
        lines.append("")
    return "\n".join([*lines, "}  // namespace uip::schema", ""])


BEGIN, END = "<!-- begin: python -m uip.schema -->", "<!-- end -->"


def generated_files(root: Path) -> dict[Path, str]:
    """The generated files and their contents.

    Raises:
        ValueError: docs/conventions.md lacks the markers around the tables.
    """
    docs = root / "docs" / "conventions.md"
    text = docs.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{docs} must contain the lines {BEGIN!r} and {END!r}; restore them")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    return {
        root / "uip" / "csrc" / "schema.h": cpp_header(),
        docs: f"{head}{BEGIN}\n\n{conventions_table()}\n{END}{tail}",
    }


def main(arguments: list[str]) -> int:
    """Write the generated files; with --check compare them and return 1 if one is stale."""
    stale = []
    for path, text in generated_files(Path(__file__).parents[1]).items():
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path))
    for name in stale:
        sys.stderr.write(f"{name} does not match uip/schema.py; run 'python -m uip.schema'\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
