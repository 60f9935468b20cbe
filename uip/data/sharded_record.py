"""One structure with its labels as bytes, and its row in the index of a data store (`uip.data.sharded`).

A record, little-endian: float64 cell (3, 3), positions (N, 3), and the labels that are known, in the order of `LABELS`;
int32 charge, spin; uint8 pbc (3,), atomic_numbers (N,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uip.data.labels import LABELS, Labels
from uip.graph.structure import Structure
from uip.schema import Integers

ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("start", "<u8"),
        ("size", "<u4"),
        ("checksum", "<u4"),
        ("atoms", "<u4"),
        ("edges", "<u4"),
        ("angles", "<u4"),
        ("labels", "u1"),
        ("elements", "<u8", (2,)),
    ]
)
"""Place, bytes and CRC-32 of a record; numbers of atoms, directed edges, angles; bits of known labels and elements."""

LARGEST_ELEMENT = 118


def label_sizes(num_atoms: int) -> dict[str, int]:
    """Number of values of each label."""
    return {"energy": 1, "forces": 3 * num_atoms, "stress": 9, "magmoms": num_atoms}


def label_bits(labels: Labels) -> int:
    """The bit 2^k is set if label k of `LABELS` is known."""
    return sum(1 << k for k, name in enumerate(LABELS) if name in labels)


def known_labels(bits: int) -> list[str]:
    """The labels of `label_bits`."""
    return [name for k, name in enumerate(LABELS) if bits >> k & 1]


def element_bits(numbers: Integers) -> tuple[int, int]:
    """The bit z % 64 of word z // 64 is set for each atomic number z.

    Raises:
        ValueError: not the number of an element.
    """
    if numbers.min() < 0 or numbers.max() > LARGEST_ELEMENT:
        raise ValueError(f"atomic numbers must lie between 0 and {LARGEST_ELEMENT}, got {numbers.max()}")
    bits = sum(1 << z for z in set(numbers.tolist()))
    return bits & (1 << 64) - 1, bits >> 64


def elements_of(words: NDArray[np.uint64]) -> list[int]:
    """The atomic numbers of `element_bits`, ascending."""
    return [z for z in range(128) if int(words[z // 64]) >> z % 64 & 1]


def encode(structure: Structure, labels: Labels) -> bytes:
    """The record of a structure with checked labels."""
    reals = [structure.cell, structure.positions, *(labels[name] for name in known_labels(label_bits(labels)))]
    parts = [np.concatenate([np.ravel(value) for value in reals]).astype("<f8")]
    parts += [np.array([structure.charge, structure.spin], dtype="<i4")]
    parts += [structure.pbc.astype(np.uint8), structure.atomic_numbers.astype(np.uint8)]
    return b"".join(part.tobytes() for part in parts)


def decode(record: bytearray, num_atoms: int, bits: int) -> tuple[Structure, Labels]:
    """The structure and its labels; arrays of floats share the memory of `record`."""
    count = (len(record) - 8 - 3 - num_atoms) // 8
    reals = np.frombuffer(record, "<f8", count)
    charge, spin = np.frombuffer(record, "<i4", 2, 8 * count).tolist()
    rest = np.frombuffer(record, np.uint8, offset=8 * count + 8)
    at, labels = 9 + 3 * num_atoms, {}
    sizes = label_sizes(num_atoms)
    shapes = {"energy": (), "forces": (num_atoms, 3), "stress": (3, 3), "magmoms": (num_atoms,)}
    for name in known_labels(bits):
        labels[name] = reals[at : at + sizes[name]].reshape(shapes[name])
        at += sizes[name]
    structure = Structure(
        atomic_numbers=rest[3:].astype(np.int64),
        positions=reals[9 : 9 + 3 * num_atoms].reshape(num_atoms, 3),
        cell=reals[:9].reshape(3, 3),
        pbc=rest[:3].astype(np.bool_),
        charge=charge,
        spin=spin,
    )
    return structure, labels
