"""Forces and virial from edge gradients, g_e = dE / d edge_vec_e for the edge e = (i -> j).

F_i += g_e,  F_j -= g_e,  dE/d eps = sum_e edge_vec_e (x) g_e
"""

from __future__ import annotations

from torch import Tensor


def forces_from_edge_grad(edge_grad: Tensor, edge_index: Tensor, num_atoms: int) -> Tensor:
    """Forces, (N, 3) eV/A, from dE / d edge_vec; they sum to zero by construction."""
    forces = edge_grad.new_zeros((num_atoms, 3)).index_add(0, edge_index[0], edge_grad)
    return forces.index_add(0, edge_index[1], edge_grad, alpha=-1)


def strain_gradient(edge_vec: Tensor, edge_grad: Tensor, edge_graph: Tensor, num_graphs: int) -> Tensor:
    """dE / d eps, (B, 3, 3) eV, with eps acting on positions and cell; `edge_graph` (E,): graph of each edge.

    Virial = -dE / d eps; stress = dE / d eps / V. Large terms cancel: for one structure (engines, exported programs),
    where a sum in float32 would be the largest error of the stress, it is summed in float64. Batches keep their
    precision: the rounding of a sum is far below the noise of labels, and float64 is slow on many GPUs.
    """
    if num_graphs == 1:
        return (edge_vec.double().mT @ edge_grad.double()).unsqueeze(0).to(edge_grad.dtype)
    products = (edge_vec.unsqueeze(2) * edge_grad.unsqueeze(1)).reshape(-1, 9)
    total = products.new_zeros((num_graphs, 9)).index_add(0, edge_graph, products)
    return total.reshape(-1, 3, 3)
