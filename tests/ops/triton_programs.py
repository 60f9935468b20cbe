"""Run as a program, without triton's interpreter: traces every op on CUDA tensors without values, as an exported model,
and prints the ops of the trace and the kernels that a compiler gets from it."""

from __future__ import annotations

import sys

import torch
import triton
from torch import Tensor
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from triton.backends.compiler import GPUTarget

from uip.ops.cuda import attention, gated_message, row_attention
from uip.ops.segment_sum import gather, make_segments, segment_sum

HEADS = 2


class Driver:
    """Says which GPU kernels are for, without one."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Ops(torch.nn.Module):
    """Every op once. The engine of autograd needs a CUDA device, so derivatives are called as ops."""

    def forward(
        self,
        q: Tensor,
        v: Tensor,
        each: Tensor,
        matrices: Tensor,
        vectors: Tensor,
        index: Tensor,
        bias: Tensor,
        weight: Tensor,
        positions: Tensor,
        strain: Tensor,
        cell: Tensor,
    ) -> list[Tensor]:
        rows = make_segments(index, v.shape[0], is_sorted=True)
        columns = make_segments(index, v.shape[0])
        message = (v, v, each, [*rows.tensors(), *columns.tensors()], matrices, vectors, True)
        y = gated_message.gated_message(*message)
        results = [gather(segment_sum(y, columns), rows), *gated_message.gated_message_backward(y, *message, True)]
        results += gated_message.gated_message_second(each, y, *message, True)

        row = (q, q, q, index, bias, HEADS, False)
        results += [row_attention.attend_rows(*row), *row_attention.attend_rows_backward(q, *row)]
        results += row_attention.attend_rows_second(q, q, q, bias, q, *row)

        graph = index.new_zeros(v.shape[0])
        bounds = torch.stack([torch.searchsorted(graph, graph), torch.searchsorted(graph, graph, right=True)])
        lists = [bounds, graph, cell, cell, cell, weight.select(0, 0)]
        given = (q, q, q, weight, positions, strain, lists)
        out, lse = attention.attend(*given, HEADS)
        results += [out, *attention.attend_backward(q, *given, out, lse, HEADS, True)]
        results += attention.attend_second([q, q, q, positions, strain], q, *given, out, lse, HEADS, True)
        return results


def main() -> None:
    """Print the names."""

    triton.runtime.driver.set_active(Driver())

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="cuda")

    with FakeTensorMode(shape_env=ShapeEnv()), torch.no_grad():
        inputs = [
            *(empty(7, 8), empty(7, 16), empty(20, 16), empty(2, 8, 8), empty(2, 3, 8), empty(20).long(), empty(5, 4)),
            *(empty(HEADS, 32), empty(7, 3), empty(7, 3, 3), empty(1, 3, 3)),
        ]
        trace = make_fx(Ops(), tracing_mode="symbolic")(*inputs)
        names = {str(node.target) for node in trace.graph.nodes if "uip_triton" in str(node.target)}
        compiled, _ = aot_export_module(trace, inputs, trace_joint=False)
        kernels = sum("triton_kernel_wrapper" in str(node.target) for node in compiled.graph.nodes)
    sys.stdout.write(f"{' '.join(sorted(names))}\n{kernels}\n")


if __name__ == "__main__":
    main()
