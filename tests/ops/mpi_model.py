"""A check of `mpi_checks.py`: a structure distributed over ranks (`uip.inference.domain`) gives the numbers of one
rank, for every variant of AllScAIP, for CHGNet and for a committee, gathered and around the ring."""

from __future__ import annotations

import numpy as np
import systems
from conftest import random_allscaip, random_chgnet
from mpi4py import MPI

from uip.graph.ase_io import structure_from_atoms
from uip.inference.committee import load_committee
from uip.inference.domain import predict_distributed
from uip.inference.evaluator import load_evaluator, predict


def check_models(comm: MPI.Comm) -> None:
    full = {"angular": True, "radial": True, "sink": True}
    switches = [{}, {"angular": True}, {"radial": True}, {"sink": True}, full, {"readout": "direct"}]
    models = [random_chgnet(), *(random_allscaip(**switch) for switch in switches)]
    committee = load_committee([random_chgnet(seed=seed) for seed in range(2)])
    for evaluator in (committee, *map(load_evaluator, models)):
        for name in ("si_rattled", "water"):
            structure = structure_from_atoms(systems.ALL[name]())
            (whole,) = predict(evaluator, [structure])
            for ring in (False, True):
                divided = predict_distributed(evaluator, structure, comm, ring=ring)
                assert divided.keys() == whole.keys()
                for key, value in whole.items():
                    np.testing.assert_allclose(divided[key], value, rtol=1e-9, atol=1e-10, err_msg=f"{key}, {name}")
