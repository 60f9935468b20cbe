"""Reference energies of elements of a new run: given, fitted to labels, or, in fine-tuning, to residuals.

A run that is resumed has them in its checkpoint: they are buffers of the model.
"""

from __future__ import annotations

import numpy as np
import torch
from ase.data import atomic_numbers

from uip.config import suggestion
from uip.data.dataset import Dataset
from uip.data.reference_energies import compositions, energies, fit_reference, fitted_sample
from uip.data.sampler import VALIDATION_COST, assign_to_ranks, cost_model, micro_batches
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.schema import Floats
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks

LABELLED = 100_000
"""Largest number of structures whose labels are fitted."""


def set_references(config: TrainConfig, model: Potential, training: Dataset, ranks: Ranks) -> None:
    """Fit or set the reference energies of elements, see `DataConfig.reference`.

    Raises:
        ValueError: a value for an element that the model does not support.
    """
    # rows of elements 1, 2, ...; some architectures have a row for element 0 before them
    num_elements = model.config.num_elements
    reference = model.reference_energy[-num_elements:]
    for symbol, value in config.data.reference_energies.items():
        if atomic_numbers.get(symbol) not in model.supported_elements:
            known = [name for name, z in atomic_numbers.items() if z in model.supported_elements]
            raise ValueError(f"unknown key 'data.reference_energies.{symbol}'{suggestion(symbol, known)}")
        reference[atomic_numbers[symbol] - 1] = float(value)
    if config.data.reference == "keep" or config.data.reference_energies:
        return
    limit = config.data.reference_structures if config.model.init_from else LABELLED
    sample = training.subset(fitted_sample(training, limit, model.elements))
    energy = energies(sample)
    if config.model.init_from:
        energy = energy - predicted_energies(model, sample, ranks)
    change = fit_reference(compositions(sample, num_elements), energy)
    reference += torch.from_numpy(change).to(reference.dtype)


def predicted_energies(model: Potential, data: Dataset, ranks: Ranks) -> Floats:
    """Energies of all samples, (B,) eV, on all ranks; each rank computes a part."""
    costs = cost_model(model.name)(data)
    mine = assign_to_ranks(costs, ranks.size)[ranks.rank]
    energy = torch.zeros(len(data), dtype=torch.float64)
    for part in micro_batches(mine, costs, VALIDATION_COST):
        graph = data.batch(part).graph.to(dtype=model.dtype)
        energy[part] = evaluate(model, graph, forces=False).energy.double()
    return np.asarray(ranks.sum(energy))
