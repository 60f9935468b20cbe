"""Time of the neighbourhood attention of AllScAIP on CPUs: one layer, its gradient, with random weights, float32.

    python benchmarks/allscaip_rows.py [--sizes 32:2:146:30 128:8:146:50 512:8:40:50] [--angular] [--threads 1]

A size: channels, heads, atoms, bonds of an atom. Times are the best of `--repeats`: processor time of one thread, wall
time of more. The environment's UIP_CPU_KERNELS (generic, avx2) limits the kernels. To compare with another version of
uip, run this file with its Python in its folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from uip.nn.token_layers import Geometry, InferenceOptions, RowAttention
from uip.parallel.library import load_library


def timed(function: Callable[[], list[torch.Tensor]], threads: int) -> tuple[float, list[torch.Tensor]]:
    """Milliseconds, and the result."""
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    result = function()
    return 1e3 * (clock() - start), result


def measure(size: str, arguments: argparse.Namespace, *, only_atoms: bool) -> tuple[float, float]:
    """Best milliseconds of the layer and of its gradient."""
    channels, heads, num_atoms, num_bonds = map(int, size.split(":"))
    head = channels // heads
    degrees = (head - head // 2, head // 4, head // 2 - head // 4) if arguments.angular else (head,)
    layer = RowAttention(channels, heads, degrees, 0.5).requires_grad_(False)
    slots = torch.arange(num_atoms * num_bonds).view(num_atoms, num_bonds)
    log_weight = -torch.rand(slots.numel())
    direction = torch.nn.functional.normalize(torch.randn(slots.numel(), 3), dim=1)
    v, t = torch.randn(num_atoms, channels), torch.randn(slots.numel(), channels)
    variables = [x.requires_grad_() for x in (v, t, log_weight, direction)]
    options = InferenceOptions(keep=True, bfloat16=False)
    geometry = Geometry(
        log_weight, direction, slots, len(degrees) if arguments.angular else 0, options, recompute=False
    )
    best = [float("inf")] * 2
    for _ in range(arguments.repeats):
        forward, outputs = timed(
            lambda: [layer.forward_atoms(v, t, geometry)] if only_atoms else list(layer(v, t, geometry)),
            arguments.threads,
        )
        seeds = [torch.ones_like(y) for y in outputs]
        backward, _ = timed(
            lambda outputs=outputs, seeds=seeds: list(
                torch.autograd.grad(outputs, variables, seeds, materialize_grads=True)
            ),
            arguments.threads,
        )
        best = [min(a, b) for a, b in zip(best, (forward, backward), strict=True)]
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["32:2:146:30", "128:8:146:50", "512:8:40:50"])
    parser.add_argument("--angular", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    load_library()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for size in arguments.sizes:
        for only_atoms in (False, True):
            forward, backward = measure(size, arguments, only_atoms=only_atoms)
            print(f"{size:>14} {'atoms' if only_atoms else 'all':>6} {forward:8.2f} ms, gradient {backward:8.2f} ms")


if __name__ == "__main__":
    main()
