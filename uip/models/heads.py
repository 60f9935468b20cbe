"""Several heads: potentials for different levels of theory that share a trunk.

A head is a whole potential. All modules but `Potential.readouts` are one and the same in all heads, so that labels of
every level of theory train them. Readouts, reference energies and scales are a head's own, as in multihead training of
MACE. So are magnetic moments, which depend on the functional.

Models, readouts, programs and engines see one head, a `Potential`, and know nothing of others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from uip.config import suggestion
from uip.models.potential import Potential


class Heads(nn.Module):
    """Two or more potentials by name of their head.

    Names of weights begin with the head, "r2scan.readout.0.weight", but for the trunk, "atom_embedding.weight".
    `state_dict` lists the trunk once more for each head; a file has it once.

    Raises:
        ValueError: a name that no head can have.
    """

    def __init__(self, potentials: Mapping[str, Potential]) -> None:
        """Takes over the potentials, of one architecture; those after the first lose their trunk."""
        super().__init__()
        self.names = tuple(potentials)
        first, *others = potentials.values()
        self.card = first.card
        own = (*first.readouts, "calibration")
        for part, module in first.named_children():
            if part in own:
                continue
            self.add_module(part, module)
            for other in others:
                setattr(other, part, module)
        for name, potential in potentials.items():
            check_name(name, self)
            potential.head = name
            potential.card = replace(self.card, name=f"{self.card.name} ({name})")
            self.add_module(name, potential)

    @staticmethod
    def of(model: Potential, names: Iterable[str]) -> Heads:
        """Heads that all start from the readouts of `model`."""
        return Heads({name: deepcopy(model) for name in names})

    @property
    def heads(self) -> dict[str, Potential]:
        """As of `Potential`."""
        return {name: getattr(self, name) for name in self.names}

    @property
    def name(self) -> str:
        """The architecture."""
        return first_head(self).name

    @property
    def device(self) -> torch.device:
        return first_head(self).device

    def settings(self) -> dict[str, object]:
        """As of `Potential`."""
        return first_head(self).settings()


def check_name(name: str, model: nn.Module) -> None:
    """Raises ValueError if no part of `model` can be called `name`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]*", name):
        raise ValueError(f"the name of a head must consist of letters, digits, '_', '+' and '-', got {name!r}")
    if name in dir(model):
        raise ValueError(f"a head must have another name than {name!r}, which is a part of the model")


def first_head(model: Potential | Heads) -> Potential:
    """A head, for what all heads have in common."""
    return next(iter(model.heads.values()))


def one_head(model: Potential | Heads, name: str | None, source: str) -> Potential:
    """The head `name` of a model, which was loaded from `source`; None: its only head.

    Raises:
        ValueError: no such head, or several and no choice.
    """
    if isinstance(model, Heads) and name is None:
        raise ValueError(
            f"'{source}' has several heads, {', '.join(model.heads)}; choose one of them with --head, in Python with "
            "`head`, for training with 'model.init_head'"
        )
    if name is not None and name not in model.heads:
        named = isinstance(model, Heads) or model.head
        only = ": it has only one, without a name; leave the head out (--head, `head`, 'model.init_head')"
        hint = suggestion(name, model.heads) if named else only
        raise ValueError(f"'{source}' has no head '{name}'{hint}")
    return first_head(model) if name is None else model.heads[name]


def without_head(name: str, heads: Collection[str]) -> str:
    """Name of a weight within its potential."""
    head, _, rest = name.partition(".")
    return rest if head in heads else name
