"""Predictions of many structures as they are read: in batches, in order, a bad structure apart from the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ase

from uip.graph.ase_io import structure_from_atoms
from uip.graph.batch import Graph, batch
from uip.inference.committee import Committee
from uip.inference.domain import predict_distributed
from uip.inference.evaluator import MAX_COST, Evaluator, Prediction, split


@dataclass(frozen=True)
class Frame:
    """One structure of a file."""

    file: str
    number: int
    """Of the structure in its file."""
    atoms: ase.Atoms


@dataclass(frozen=True)
class Failure:
    """Why a structure has no prediction."""

    message: str


Result = tuple[Frame, Prediction | Failure]


def predict_stream(
    evaluator: Evaluator | Committee, frames: Iterable[Frame], *, max_cost: int = MAX_COST, ranks: Any = None
) -> Iterator[Result]:
    """Each frame with its prediction or failure, in order; `ranks`, an mpi4py communicator, share each structure."""
    if ranks is not None:
        for frame in frames:
            yield frame, _distributed(evaluator, frame, ranks)
        return
    waiting: list[tuple[Frame, Graph | Failure]] = []
    total, neighbors = 0, evaluator.neighbor_list()
    for frame in frames:
        try:
            structure = structure_from_atoms(frame.atoms)
            evaluator.check_elements(structure.atomic_numbers)
            graph = neighbors.build(structure)
        except ValueError as error:
            waiting.append((frame, Failure(str(error))))
            continue
        cost = graph.num_atoms + graph.num_edges // 2 + graph.num_angles
        if total and total + cost > max_cost:
            yield from _evaluated(evaluator, waiting)
            waiting, total = [], 0
        waiting.append((frame, graph))
        total += cost
    yield from _evaluated(evaluator, waiting)


def _distributed(evaluator: Evaluator | Committee, frame: Frame, ranks: Any) -> Prediction | Failure:
    try:
        return predict_distributed(evaluator, structure_from_atoms(frame.atoms), ranks)
    except (ValueError, FloatingPointError) as error:  # the same on all ranks
        return Failure(str(error))


def _evaluated(evaluator: Evaluator | Committee, waiting: list[tuple[Frame, Graph | Failure]]) -> Iterator[Result]:
    graphs = [graph for _, graph in waiting if isinstance(graph, Graph)]
    results = iter(_predictions(evaluator, graphs))
    for frame, graph in waiting:
        yield frame, graph if isinstance(graph, Failure) else next(results)


def _predictions(evaluator: Evaluator | Committee, graphs: list[Graph]) -> list[Prediction | Failure]:
    if not graphs:
        return []
    try:
        return [*split(evaluator(batch(graphs)), [graph.num_atoms for graph in graphs])]
    except FloatingPointError as error:
        if len(graphs) == 1:
            return [Failure(str(error))]
    return [result for graph in graphs for result in _predictions(evaluator, [graph])]
