"""CHGNet on a processor: fused messages against the plain form, eager and exported, interleaved in one process.

    python benchmarks/chgnet_kernels.py [--program chgnet.pt2] [--before old.pt2] [--repeats 5] [--sizes "Si 8" ...]
    UIP_CPU_KERNELS=avx2 python benchmarks/chgnet_kernels.py              (or generic: other instruction sets)

Energy, forces, stress and magnetic moments, weights of 0.3.0, float32, one thread. Each repeat times every form in
turn, in processor time, so that other work on the machine counts little; the table gives the best of each. "peak" is
the largest rate of a product of matrices (float32, 1024 x 1024) in the same process; flops are those of the messages'
and their gradients' products, without what is computed again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import ase
import torch
from ase.build import bulk

from uip.checkpoint import load_model
from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph
from uip.graph.neighbors import build_graph
from uip.inference.evaluator import load_evaluator
from uip.models.chgnet import CHGNetConfig
from uip.models.readout import evaluate
from uip.nn.fused import plain_form
from uip.parallel.library import load_library

SIZES = {"Si 8": ("Si", 1), "Si 64": ("Si", 2), "Si 1000": ("Si", 5), "MgO 216": ("MgO", 3)}


def structure(name: str) -> ase.Atoms:
    """A rattled supercell."""
    kind, repeat = SIZES[name]
    cell = bulk("Si", cubic=True) if kind == "Si" else bulk("MgO", "rocksalt", a=4.21, cubic=True)
    atoms = cell.repeat(repeat)
    atoms.rattle(0.05, seed=0)
    return atoms


def gflops(graph: Graph, config: CHGNetConfig) -> float:
    """Of the products in messages: forward once, backward once."""
    c, k = config.channels, config.num_radial + 1
    edges = config.num_layers * graph.num_edges * (3 * k * c + 2 * c * c)
    angles = graph.num_angles * ((config.num_layers - 1) * 4 * c * c + (config.num_layers - 2) * 2 * c * c)
    return 2 * 2 * (edges + angles) * 1e-9


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peak() -> float:
    """GFlop/s."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1.024**3 / min(seconds(lambda: a @ b) for _ in range(10))


def measure(name: str, forms: dict[str, Callable[[Graph], object]], repeats: int) -> tuple[Graph, dict[str, float]]:
    """The best time of each form, s."""
    graph = build_graph(structure_from_atoms(structure(name)), 6.0, 3.0).to(dtype=torch.float32)
    times = [{form: seconds(lambda call=call: call(graph)) for form, call in forms.items()} for _ in range(repeats + 1)]
    return graph, {form: min(each[form] for each in times[1:]) for form in forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="a .pt2 of CHGNet 0.3.0 (uip export)")
    parser.add_argument("--before", help="another, for example of an older version")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_library()
    model = load_model("chgnet-0.3.0")

    def plain(graph: Graph) -> object:
        with plain_form():
            return evaluate(model, graph)

    forms: dict[str, Callable[[Graph], object]] = {"plain": plain, "fused": lambda graph: evaluate(model, graph)}
    programs = {"program": options.program, "before": options.before}
    forms |= {form: load_evaluator(path) for form, path in programs.items() if path}
    best = peak()
    print(f"kernels {torch.ops.uip.cpu_kernels()}, peak {best:.0f} GFlop/s; ms a step, speed against the plain form")
    for name in options.sizes:
        graph, times = measure(name, forms, options.repeats)
        cells = [f"{form} {1e3 * t:.1f} ({times['plain'] / t:.2f} x)" for form, t in times.items()]
        share = gflops(graph, model.config) / times["fused"] / best
        each = 1e6 * times["fused"] / graph.num_atoms
        print(f"{name:8s} {'  '.join(cells)}  fused: {each:.0f} us/atom, {share:.0%} of peak")


if __name__ == "__main__":
    main()
