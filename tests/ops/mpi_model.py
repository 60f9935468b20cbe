"""Run under mpiexec: a structure distributed over ranks (`uip.inference.domain`) gives the results of one rank, for
every variant of AllScAIP and for CHGNet, with gathered keys and with the ring."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import systems
import torch
from conftest import random_allscaip, random_chgnet
from mpi4py import MPI

from uip.graph.ase_io import structure_from_atoms
from uip.inference.domain import predict_distributed
from uip.inference.evaluator import load_evaluator, predict


def main() -> None:
    comm = MPI.COMM_WORLD
    switches = [{}, {"angular": True}, {"radial": True}, {"angular": True, "radial": True}, {"readout": "direct"}]
    models = [random_chgnet(), *(random_allscaip(**switch) for switch in switches)]
    for model in models:
        evaluator = load_evaluator(model)
        for name in ("si_rattled", "water"):
            structure = structure_from_atoms(systems.ALL[name]())
            (whole,) = predict(evaluator, [structure])
            for ring in (False, True):
                divided = predict_distributed(evaluator, structure, comm, ring=ring)
                assert divided.keys() == whole.keys()
                for key, value in whole.items():
                    np.testing.assert_allclose(divided[key], value, rtol=1e-9, atol=1e-10, err_msg=f"{key}, {name}")
    sys.stdout.write(f"rank {comm.rank} agrees\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
