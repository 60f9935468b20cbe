"""Compiles every Triton kernel for GPUs, without one, and lists what each needs: registers, spills, shared memory.

    python benchmarks/triton_resources.py [--arch 80 90 100] [--type float32 bfloat16] [--only NAME ...]
    python benchmarks/triton_resources.py --document     # the results in docs/gpu_kernels.md

Sizes are those of the published models: 64 channels of CHGNet, heads of 64 channels of AllScAIP. Nothing is run, so the
table says nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "0")  # before triton is imported

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from uip.ops._triton import attention, attention_gradient, gated_message, row_attention, segment_sum
from uip.ops.cuda import attention as attention_ops
from uip.ops.cuda import gated_message as gated_ops
from uip.ops.cuda import row_attention as row_ops
from uip.ops.cuda import segment_sum as sum_ops

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "triton_resources.json"
DOCUMENT = ROOT / "docs" / "gpu_kernels.md"
MARKERS = "<!-- triton_resources.py: begin -->", "<!-- triton_resources.py: end -->"
ARCHITECTURES = (80, 90, 100)
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
"""Largest shared memory of a program, bytes (CUDA C++ Programming Guide)."""
TYPES = {"float32": "*fp32", "bfloat16": "*bf16"}
INDICES = {"row", "column", "order", "offsets", "tokens", "bounds", "graph"}
REALS = {"lse", "delta", "mu", "delta_t", "g_positions", "g_strain", "g_weight", "g_bias", "sums"}
"""float32 whatever the type."""
COUNTS = {"M", "C", "N", "D", "H", "W", "channels", "num_shifts", "q_stride", "k_stride", "v_stride"}

SUM = {"BLOCK_M": sum_ops.BLOCK_M, "BLOCK_C": sum_ops.BLOCK_C, "num_warps": sum_ops.WARPS}
GATED = {"HIDDEN": True, "NORM": True, "BLOCK_M": gated_ops.BLOCK_M, "BLOCK_C": 64, "num_warps": gated_ops.WARPS}
ROWS = {
    "scale": 0.125,
    "QUERIES_ALL": True,
    "BLOCK_Q": row_ops.BLOCK_Q,
    "BLOCK_W": 64,
    "BLOCK_D": 64,
    "num_warps": row_ops.WARPS,
    "num_stages": row_ops.STAGES,
}
ALL = {"scale": 0.125, "RADIAL": True, "BLOCK_M": attention_ops.BLOCK, "BLOCK_N": attention_ops.BLOCK, "BLOCK_D": 64}
ALL |= {"num_warps": attention_ops.WARPS}
PAIRS = {**ALL, "STRAIN": True}
SECOND = {**PAIRS, "BLOCK_M": attention_ops.BLOCK_SECOND, "BLOCK_N": attention_ops.BLOCK_SECOND}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "segment sum": (segment_sum.segment_sum_kernel, {**SUM, "ORDERED": True}),
    "segment sum, unsorted": (segment_sum.segment_sum_kernel, {**SUM, "ORDERED": False}),
    "gated message": (gated_message.forward_kernel, GATED),
    "gated message, gradient": (gated_message.backward_kernel, {**GATED, "WEIGHTS": False}),
    "gated message, gradient with weights": (gated_message.backward_kernel, {**GATED, "WEIGHTS": True}),
    "gated message, second gradient": (gated_message.second_kernel, {**GATED, "WEIGHTS": True}),
    "row attention": (row_attention.forward_kernel, ROWS),
    "row attention, gradient": (row_attention.backward_kernel, ROWS),
    "row attention, second gradient": (row_attention.second_kernel, ROWS),
    "attention without bias": (attention.forward_kernel, {**ALL, "RADIAL": False}),
    "attention": (attention.forward_kernel, ALL),
    "attention, tangent": (attention.tangent_kernel, SECOND),
    "attention, gradient of queries": (
        attention_gradient.rows_kernel,
        {**PAIRS, "WEIGHT": True, "SECOND": False},
    ),
    "attention, second gradient of queries": (
        attention_gradient.rows_kernel,
        {**SECOND, "WEIGHT": True, "SECOND": True},
    ),
    "attention, gradient of keys": (attention_gradient.columns_kernel, {**PAIRS, "SECOND": False}),
    "attention, second gradient of keys": (attention_gradient.columns_kernel, {**SECOND, "SECOND": True}),
}
"""Kernels, with the sizes and warps that they are compiled for."""


def signature(kernel: Any, constants: dict[str, Any], dtype: str) -> dict[str, str]:
    """Type of each argument, by its name."""

    def of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in INDICES:
            return "*i64"
        if name in REALS:
            return "*fp32"
        return "i32" if name in COUNTS else TYPES[dtype]

    return {name: of(name) for name in kernel.arg_names}


def resources(kernel: Any, constants: dict[str, Any], dtype: str, architecture: int) -> dict[str, int]:
    """Registers of a thread, bytes it spills, threads and bytes of shared memory of a program."""
    options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature(kernel, constants, dtype), constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = used(Path(file.name))
    return {**usage, "shared": compiled.metadata.shared, "threads": 32 * compiled.metadata.num_warps}


def used(cubin: Path) -> dict[str, int]:
    """What the binary says of itself: spilled registers lie in the stack."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([program, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", text)}
    return {"registers": found["REG"], "spills": found["STACK"]}


def measure(architectures: list[int], dtypes: list[str], names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        kernel, constants = KERNELS[name]
        for dtype in dtypes:
            for architecture in architectures:
                row = {"kernel": name, "dtype": dtype, "arch": f"sm_{architecture}"}
                rows.append({**row, **resources(kernel, constants, dtype, architecture)})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each kernel and type, a column for each architecture."""
    architectures = list(dict.fromkeys(row["arch"] for row in results["rows"]))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in results["rows"]:
        text = f"{row['registers']} / {row['spills']} / {row['shared'] / 1024:.1f}"
        cells.setdefault((row["kernel"], row["dtype"]), {})[row["arch"]] = text
    lines = [f"| kernel | type | {' | '.join(architectures)} |", "|---" * (2 + len(architectures)) + "|"]
    lines += [f"| {name} | {dtype} | {' | '.join(cell.values())} |" for (name, dtype), cell in cells.items()]
    return "\n".join(lines)


def document(results: dict[str, Any]) -> str:
    """The text of docs/gpu_kernels.md with this table."""
    before, _, rest = DOCUMENT.read_text().partition(MARKERS[0])
    after = rest.partition(MARKERS[1])[2]
    return f"{before}{MARKERS[0]}\n\n{table(results)}\n\n{MARKERS[1]}{after}"


def main() -> None:
    """Compile and write the results, or show them in the documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--type", nargs="+", choices=list(TYPES), default=["float32"])
    parser.add_argument("--only", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    if options.document:
        DOCUMENT.write_text(document(json.loads(options.out.read_text())))
    else:
        results = {"triton": triton.__version__, "rows": measure(options.arch, options.type, options.only)}
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
