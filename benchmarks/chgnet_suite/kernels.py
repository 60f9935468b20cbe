"""Rates of libuip's message kernels inside an evaluation: floating-point operations counted, times by torch.profiler.

A message multiplies C x C matrices (C channels); its gradient computes them again and multiplies with their transposes.
The last layer is not computed again for messages whose result was kept. Numbers of C x C matrices that a message is
multiplied with if nothing is kept, by kind (`uip.nn.fused`); with tables the first layer needs none, and of edges it is
K x 3C otherwise, with K - 1 radial functions:

    kind              first layer   second layer   forward   gradient
    edges, tables     0             2              2         4
    bonds             2             2              4         8
    bonds, tables     0             2              2         4
    angles            2             0              2         4
    angles, tables    0             0              0         0
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from structures import structure
from torch.profiler import ProfilerActivity, profile

from uip.graph.ase_io import structure_from_atoms
from uip.nn.fused import ANGLES, BONDS, EDGE_ROWS, EDGES

BACKWARD = "uip::gated_message_backward"
OPS = ("uip::gated_message", "uip::gated_message_forward", BACKWARD)
"""The first alone, or around the second."""
NAMES = {EDGES: "edges", BONDS: "bonds", ANGLES: "angles", EDGE_ROWS: "edges"}
SIZE = 1024
"""Of the square matrices whose product is the peak."""


def flops(kind: int, tabulated: bool, num_radial: int, messages: int, channels: int) -> int:
    """Operations of the products of a message op, forward; the gradient has twice as many."""
    if tabulated:
        first = 0
    elif NAMES[kind] == "edges":
        first = 3 * channels * (num_radial + 1)
    else:
        first = 2 * channels**2
    second = 0 if kind == ANGLES else 2 * channels**2
    return 2 * messages * (first + second)


def gemm_seconds() -> float:
    """Processor time of one product."""
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    start = time.process_time()
    a @ b
    return time.process_time() - start


def described(event: Any) -> tuple[str, str, int]:
    """Kind, direction and operations of a profiled op."""
    inputs, backward = event.concrete_inputs, event.name == BACKWARD
    start = next(place for place, value in enumerate(inputs) if value is not None)  # after what tensors precede
    kind, _, tabulated, num_radial = inputs[start : start + 4]
    x, first = event.input_shapes[start + 4], event.input_shapes[start + 6]
    count = flops(kind, tabulated, num_radial, x[0], first[1] // 2)
    name = NAMES[kind] + (", tables" if tabulated else "")
    if not backward:
        return name, "forward", count
    kept, width = event.input_shapes[1]  # 2 C
    return name, "gradient", 2 * count - kept * width**2


def is_outermost(event: Any) -> bool:
    return event.name in OPS and (event.cpu_parent is None or event.cpu_parent.name not in OPS)


def profiled(call: Any) -> list[tuple[tuple[str, str, int], float]]:
    """What each message op is, and its seconds, in the order of one evaluation."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    return [(described(event), 1e-6 * event.cpu_time_total) for event in profiler.events() if is_outermost(event)]


def rates(evaluator: Any, name: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each kind and direction, "all" and "gemm": `gflop` of a step and `ms`.

    Each op counts with its shortest time of all rounds; the products of matrices take turns with the evaluations.
    """
    graph = evaluator.neighbor_list().build(structure_from_atoms(structure(name)))
    evaluator(graph), gemm_seconds()
    ops, best, gemm = [], [], float("inf")
    for _ in range(rounds):
        gemm = min(gemm, *(gemm_seconds() for _ in range(4)))
        found = profiled(lambda: evaluator(graph))
        ops = [what for what, _ in found]
        best = [min(pair) for pair in zip(best or [float("inf")] * len(found), (t for _, t in found), strict=True)]
    total: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (kind, direction, count), seconds in zip(ops, best, strict=True):
        for key in ((kind, direction), ("all", "both")):
            total[key][0] += 1e-9 * count
            total[key][1] += 1e3 * seconds
    total["gemm", "forward"] = [2e-9 * SIZE**3, 1e3 * gemm]
    return [{"kind": kind, "direction": way, "gflop": x, "ms": t} for (kind, way), (x, t) in total.items()]
