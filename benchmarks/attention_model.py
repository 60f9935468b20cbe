"""Cost model of AllScAIP on P ranks: operations, bytes, messages and memory of one step (energy and forces).

    python benchmarks/attention_model.py                  the tables of docs/scaling.md
    benchmarks/attention_ranks.py                         the same numbers counted in runs
    benchmarks/attention_memory.py                        and memory

Letters: N atoms, P ranks, n = N / P, L layers, C channels, k bonds per atom, b bytes per number, w bytes of an
atom's keys, values (and, with radial bias, positions): (2 C + 3) b or 2 C b.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """Architecture; bond counts are those of water at 6 A."""

    channels: int
    num_layers: int
    bonds: float
    real: int = 4
    radial: bool = False

    @property
    def row(self) -> int:
        """w."""
        return (2 * self.channels + 3 * self.radial) * self.real


@dataclass(frozen=True)
class Machine:
    """Of one rank: operations per second in attention over all atoms and in local layers, bytes per second, seconds."""

    attention_rate: float
    local_rate: float
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Traffic:
    """Sent in one step."""

    num_bytes: float
    messages: float

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.num_bytes + other.num_bytes, self.messages + other.messages)


def attention_traffic(model: Model, num_atoms: float, num_ranks: int, ring: bool) -> Traffic:
    """Of all ranks together, if none is empty.

    Gather: keys forward, keys again backward, gradients to their owners, each between all pairs of ranks. Ring: P - 1
    shifts forward, P - 1 of keys and P of their gradients backward.
    """
    if num_ranks == 1:
        return Traffic(0, 0)
    shifts = 3 * num_ranks - 2 if ring else 3 * (num_ranks - 1)
    times = model.num_layers * shifts
    return Traffic(times * num_atoms * model.row, times * num_ranks)


def bond_traffic(model: Model, crossing_bonds: float, pairs: float) -> Traffic:
    """Of all ranks: `crossing_bonds` directed bonds whose reverse is on another rank, between `pairs` ordered pairs of
    ranks. Tokens are reversed twice per layer and once in the last, forward and backward; soft ranks once each.
    """
    reversals = 2 * (2 * model.num_layers - 1)
    return Traffic(crossing_bonds * model.real * (reversals * model.channels + 2), (reversals + 2) * pairs)


def engine_traffic(ghosts: float, crossing_edges: float, ghost_pairs: float, edge_pairs: float) -> Traffic:
    """Communication of LAMMPS: positions and forces of ghosts, soft ranks of edges, all in float64."""
    return Traffic(2 * 24 * ghosts + 8 * crossing_edges, 2 * ghost_pairs + edge_pairs)


def attention_operations(model: Model, num_atoms: float) -> float:
    """4 C forward, 10 C backward for each pair and layer."""
    return 14.0 * model.channels * model.num_layers * num_atoms**2


def local_operations(model: Model, num_atoms: float) -> float:
    """Linear maps 16 C^2 of two attentions and 8 C^2 of the FFN per token, 16 C^2 per atom, once forward and once
    backward (weights have no gradient); products within rows 8 C (k + 1) per token, three times.
    """
    tokens = num_atoms * (1.0 + model.bonds)
    channels = model.channels
    linear = 2.0 * (24.0 * channels**2 * tokens + 16.0 * channels**2 * num_atoms)
    return model.num_layers * (linear + 3.0 * 8.0 * channels * (model.bonds + 1.0) * tokens)


def attention_memory(model: Model, num_atoms: float, num_ranks: int, ring: bool) -> float:
    """Largest memory on a rank in the backward pass, in addition to that of attention of n atoms on one rank, bytes.

    Gather: all keys, their gradients, packed gradients, and gradients received by owners. Ring: a block of keys, its
    accumulated gradients, and gradients of this step, separate and packed.
    """
    if num_ranks == 1:
        return 0.0
    return 4.0 * num_atoms / num_ranks * model.row if ring else 4.0 * num_atoms * model.row


@dataclass(frozen=True)
class Step:
    """Seconds of one step of P equal ranks; computation and communication do not overlap."""

    attention: float
    local: float
    sending: float

    @property
    def total(self) -> float:
        return self.attention + self.local + self.sending


DENSITY = 0.1
"""atoms / A^3, of water."""
BOND_LENGTH = 2.6
"""A, mean of the k bonds of an atom of water."""


def crossing_bonds(model: Model, num_atoms: float, num_ranks: int) -> float:
    """Directed bonds across the borders of cubic domains, all ranks: area x density x k x length / 4, each side."""
    if num_ranks == 1:
        return 0.0
    area = 6.0 * (num_atoms / num_ranks / DENSITY) ** (2 / 3)
    return min(num_atoms * model.bonds, num_ranks * area * DENSITY * model.bonds * BOND_LENGTH / 4)


def step(model: Model, machine: Machine, num_atoms: float, num_ranks: int, ring: bool) -> Step:
    neighbors = min(26, num_ranks - 1)
    traffic = attention_traffic(model, num_atoms, num_ranks, ring)
    traffic += bond_traffic(model, crossing_bonds(model, num_atoms, num_ranks), neighbors * num_ranks)
    return Step(
        attention_operations(model, num_atoms) / num_ranks / machine.attention_rate,
        local_operations(model, num_atoms) / num_ranks / machine.local_rate,
        traffic.num_bytes / num_ranks / machine.bandwidth + traffic.messages / num_ranks * machine.latency,
    )


SMALL = Model(channels=64, num_layers=2, bonds=12)
SM = Model(channels=512, num_layers=6, bonds=30)
CORE = Machine(attention_rate=64e9, local_rate=60e9, bandwidth=5e9, latency=2e-6)
"""One core: rates of size sm, measured by `attention_ranks.py --constants --size sm`; network assumed."""
GPU = Machine(attention_rate=40e12, local_rate=40e12, bandwidth=25e9, latency=10e-6)
"""Assumed, to be replaced by measurements: a data centre's GPU in tf32, one network card each."""
SIZES = (10**3, 10**4, 10**5, 10**6)
RANKS = (1, 8, 64, 512)


def seconds(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f} s"
    return f"{value:.2g} s" if value >= 0.995 else f"{value * 1e3:.3g} ms"


def size(value: float) -> str:
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def table(model: Model, machine: Machine) -> str:
    lines = ["| N | ranks | attention | local | gather | ring | sent | memory, gather | memory, ring |"]
    lines.append("|---" * 9 + "|")
    for num_atoms in SIZES:
        for num_ranks in RANKS:
            gather, ring = (step(model, machine, num_atoms, num_ranks, way) for way in (False, True))
            sent = attention_traffic(model, num_atoms, num_ranks, False).num_bytes / num_ranks
            held = [attention_memory(model, num_atoms, num_ranks, way) for way in (False, True)]
            cells = [f"{num_atoms:,}", str(num_ranks), *(seconds(x) for x in (gather.attention, gather.local))]
            cells += [seconds(gather.sending), seconds(ring.sending), size(sent)]
            lines.append("| " + " | ".join([*cells, *(size(x) for x in held)]) + " |")
    return "\n".join(lines)


def main() -> None:
    for name, model, machine in (("sm, CPU cores", SM, CORE), ("sm, GPUs (assumed)", SM, GPU)):
        print(f"\n{name}: {model}\n{machine}\n\n{table(model, machine)}")


if __name__ == "__main__":
    main()
