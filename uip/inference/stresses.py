"""Stresses of atoms: an edge counts for its centre, as in `compute stress/atom` of LAMMPS.

stresses_i = sym( sum_{e = (i -> j)} edge_vec_e (x) g_e + strain_grad_i ) / V        sum_i stresses_i = stress
"""

from __future__ import annotations

import numpy as np
import torch
from ase.stress import full_3x3_to_voigt_6_stress

from uip.graph.batch import Graph, Outputs
from uip.schema import Floats


def atomic_stresses(graph: Graph, outputs: Outputs) -> Floats | None:
    """(N, 6) eV/A^3 in ASE's order, of one structure; None without a gradient or without three cell vectors."""
    if outputs.edge_grad is None or float(graph.volume[0]) < 1e-9:
        return None
    edge_grad = outputs.edge_grad.to(device="cpu", dtype=torch.float64)
    products = graph.edge_vec.double().unsqueeze(2) * edge_grad.unsqueeze(1)
    strain = torch.zeros((graph.num_atoms, 3, 3), dtype=torch.float64).index_add(0, graph.edge_index[0], products)
    if outputs.strain_grad is not None:
        strain = strain + outputs.strain_grad.to(device="cpu", dtype=torch.float64)
    strain = 0.5 * (strain + strain.mT) / float(graph.volume[0])
    return np.stack([full_3x3_to_voigt_6_stress(tensor) for tensor in strain.numpy()])
