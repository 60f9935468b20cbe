"""Reference energies of elements of a new run: given, fitted to labels, or, in fine-tuning, to residuals.

A run that is resumed has them in its checkpoint: they are buffers of the model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from uip.config import suggestion
from uip.data.dataset import Dataset
from uip.data.reference_energies import compositions, energies, fit_reference, fitted_sample
from uip.data.sampler import VALIDATION_COST, assign_to_ranks, cost_model, micro_batches
from uip.models.heads import Heads
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.schema import Floats
from uip.train.config import TrainConfig
from uip.train.distributed import Ranks

LABELLED = 100_000
"""Largest number of structures whose labels are fitted."""


def set_references(
    config: TrainConfig, model: Potential | Heads, training: Dataset, ranks: Ranks
) -> tuple[Tensor, ...]:
    """Fit or set the reference energies of elements, see `DataConfig.reference`.

    The model gets those of the main set, and of elements that are not in it those of the first set that has them. Of
    several heads, each gets those of its sets, the first of which is its main set.

    Returns:
        For each data set, if there are several: what is added to its energy labels, (num_elements,) float64, eV per
        atom of each element, so that they are relative to the reference energies of the model.

    Raises:
        ValueError: a value for an element that the model does not support.
    """
    shifts: dict[int, Tensor] = {}
    for name, head in model.heads.items():
        sets = [number for number, other in enumerate(config.head_of_set) if other == name]
        shifts |= set_head_references(config, head, training, sets, ranks)
    return tuple(shifts[number] for number in sorted(shifts)) if config.data.sets else ()


def set_head_references(
    config: TrainConfig, model: Potential, training: Dataset, sets: list[int], ranks: Ranks
) -> dict[int, Tensor]:
    """`set_references` of a model with one head that is trained on these `sets`; what is added to labels, by set."""
    first, *others = sets
    named = list(config.data.by_name.items())
    name, choice = named[first]
    # rows of elements 1, 2, ...; some architectures have a row for element 0 before them
    reference = model.reference_energy[-model.config.num_elements :]
    before = reference.double().clone()
    set_given(f"data.sets.{name}" if first else "data", choice.reference_energies, model, reference)
    main = training.of_set(first)
    if choice.reference == "fit" and not choice.reference_energies:
        reference += offsets(config, model, main, ranks).to(reference.dtype)
    settled = elements_of(main, model) | {atomic_numbers[symbol] for symbol in choice.reference_energies}
    shifts = {first: torch.zeros_like(before)}
    for number in others:
        name, choice = named[number]
        data = training.of_set(number)
        is_fitted = choice.reference == "fit"
        if not is_fitted:
            check_known(name, elements_of(data, model), before)
        change = offsets(config, model, data, ranks) if is_fitted else before - reference.double()
        for element in elements_of(data, model) - settled:
            reference[element - 1] += change[element - 1].to(reference.dtype)
            change[element - 1] = 0.0
        settled |= elements_of(data, model)
        shifts[number] = -change
    return shifts


def check_known(name: str, elements: set[int], reference: Tensor) -> None:
    """Raises ValueError for elements of the data set `name` that the first model has no reference energy of."""
    unknown = [chemical_symbols[element] for element in sorted(elements) if not reference[element - 1]]
    if unknown:
        raise ValueError(
            f"with 'data.sets.{name}.reference' 'keep' the model of 'model.init_from' must have reference energies of "
            f"all elements of the set, but it has none of {', '.join(unknown)}; use 'fit'"
        )


def set_given(table: str, given: Mapping[str, float], model: Potential, reference: Tensor) -> None:
    """Set those that the settings `table` name, by symbol, eV."""
    for symbol, value in given.items():
        if atomic_numbers.get(symbol) not in model.supported_elements:
            known = [name for name, z in atomic_numbers.items() if z in model.supported_elements]
            raise ValueError(f"unknown key '{table}.reference_energies.{symbol}'{suggestion(symbol, known)}")
        reference[atomic_numbers[symbol] - 1] = float(value)


def elements_of(data: Dataset, model: Potential) -> set[int]:
    """Atomic numbers in a data set."""
    return {z for z in model.supported_elements if data.contains(z).any()}


def offsets(config: TrainConfig, model: Potential, data: Dataset, ranks: Ranks) -> Tensor:
    """Energies of elements, (num_elements,) float64 eV, fitted to labels minus energies of the model; of a new model
    minus its reference energies."""
    limit = config.data.reference_structures if config.model.init_from else LABELLED
    sample = data.subset(fitted_sample(data, limit, model.elements))
    counts = compositions(sample, model.config.num_elements)
    if config.model.init_from:
        energy = energies(sample) - predicted_energies(model, sample, ranks)
    else:
        energy = energies(sample) - counts @ model.reference_energy[-model.config.num_elements :].double().numpy()
    return torch.from_numpy(fit_reference(counts, energy))


def predicted_energies(model: Potential, data: Dataset, ranks: Ranks) -> Floats:
    """Energies of all samples, (B,) eV, on all ranks; each rank computes a part."""
    costs = cost_model(model.name)(data)
    mine = assign_to_ranks(costs, ranks.size)[ranks.rank]
    energy = torch.zeros(len(data), dtype=torch.float64)
    for part in micro_batches(mine, costs, VALIDATION_COST):
        graph = data.batch(part).graph.to(dtype=model.dtype)
        energy[part] = evaluate(model, graph, forces=False).energy.double()
    return np.asarray(ranks.sum(energy))
