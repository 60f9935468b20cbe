"""Several data sets in one run: `data.train`, named "main", and the tables [data.sets.NAME], each with a weight.

All of them train one model, which has one zero of energy: that of the main set. Energies of another set may have
another zero, as of another code or other pseudopotentials; they are moved to that of the model by an energy per atom of
each element (`uip/train/references.py`). Of a model with several heads, each set trains one of them, which has the zero
of the first of its sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from uip.config import from_dict, suggestion
from uip.data.labels import LabelKeys
from uip.units import EV_PER_A3_TO_GPA

MAIN = "main"
"""Name of the set of `data.train`."""
STRESS_UNITS = {"eV/A^3": 1.0, "GPa": 1.0 / EV_PER_A3_TO_GPA, "kBar": 0.1 / EV_PER_A3_TO_GPA}
STRESS_SIGNS = {"tension": 1.0, "compression": -1.0}
REFERENCES = ("fit", "keep")


class LabelConventions:
    """Names, unit and sign of the labels of a data set; a base of dataclasses with these settings."""

    head: str
    energy_key: str
    forces_key: str
    stress_key: str
    stress_unit: str
    stress_sign: str
    reference: str
    reference_energies: dict[str, float]

    def check_conventions(self, table: str) -> None:
        """Raises ValueError for an unknown unit, sign or reference in the settings `table`."""
        known = {"stress_unit": STRESS_UNITS, "stress_sign": STRESS_SIGNS, "reference": REFERENCES}
        for key, values in known.items():
            if getattr(self, key) not in values:
                raise ValueError(f"'{table}.{key}' must be one of {', '.join(values)}, got {getattr(self, key)!r}")
        if "virial" in self.stress_key.lower() and self.stress_scale != 1.0:
            raise ValueError(
                f"virials ('{table}.stress_key' is {self.stress_key!r}) must be in eV and positive under compression, "
                f"got '{table}.stress_unit' {self.stress_unit!r} and '{table}.stress_sign' {self.stress_sign!r}; leave "
                "both out"
            )

    @property
    def label_keys(self) -> LabelKeys:
        """Names of the entries that are labels."""
        return LabelKeys(self.energy_key, self.forces_key, self.stress_key)

    @property
    def stress_scale(self) -> float:
        """Factor from stress labels to eV/A^3, positive under tension."""
        return STRESS_UNITS[self.stress_unit] * STRESS_SIGNS[self.stress_sign]


@dataclass(frozen=True)
class SetConfig(LabelConventions):
    """One more data set, with a name of your choice: structures of the first training to replay, or other labels."""

    train: tuple[str, ...] = ()
    """Files of labelled structures or data stores, relative to the TOML file."""
    validation: tuple[str, ...] = ()
    """Files or data stores for validation; empty: a part of these structures, as in [data]."""
    test: tuple[str, ...] = ()
    """As `data.test`, of this set."""
    head: str = ""
    """Head (level of theory) that these labels train, one of `model.heads`; empty: the first."""
    structures: int = 0
    """Largest number of structures, drawn at random, with those for validation; 0: all. For a large set, give a data
    store: of files, graphs of all structures are built."""
    weight: float = 1.0
    """Weight of each label of this set in the loss; labels of `data.train` have 1."""
    reference: str = "fit"
    """Zero of the energies: "keep": that of `model.init_from`, as of structures of its own training set; "fit": another
    one, which is fitted to the residuals of the model. Of the first set of a head it is the zero of the head."""
    reference_energies: dict[str, float] = field(default_factory=dict)
    """As `data.reference_energies`, of the first set of a head."""
    energy_key: str = ""
    """As in [data]; so are the next four."""
    forces_key: str = ""
    """See `data.forces_key`."""
    stress_key: str = ""
    """See `data.stress_key`."""
    stress_unit: str = "eV/A^3"
    """See `data.stress_unit`."""
    stress_sign: str = "tension"
    """See `data.stress_sign`."""


def set_configs(tables: Any) -> dict[str, SetConfig]:
    """The tables [data.sets.NAME] by name.

    Raises:
        ValueError: not tables, an unknown key, or an invalid value.
    """
    if not isinstance(tables, dict):
        raise ValueError(f"'data.sets' must consist of tables [data.sets.NAME], got {tables!r}")
    return {name: _set_config(name, table) for name, table in tables.items()}


def _set_config(name: str, table: Any) -> SetConfig:
    where = f"data.sets.{name}"
    if name == MAIN:
        raise ValueError(f"'{where}' must have another name: '{MAIN}' is the set of 'data.train'")
    if not isinstance(table, dict):
        raise ValueError(f"'{where}' must be a table with 'train', its files, got {table!r}")
    found = from_dict(SetConfig, table, where)
    found.check_conventions(where)
    if not found.train:
        raise ValueError(f"'{where}.train' must name at least one file, got none")
    if not 0 < found.weight < math.inf:
        raise ValueError(
            f"'{where}.weight' must be positive and finite, got {found.weight}; remove the table to leave it out"
        )
    if found.structures < 0:
        raise ValueError(f"'{where}.structures' must not be negative, got {found.structures}")
    return found


def check_heads(heads: Sequence[str], sets: Mapping[str, LabelConventions], head_of_set: Sequence[str]) -> None:
    """Raises ValueError if data sets, each with its head, do not fit the heads of the model."""
    for number, (name, choice) in enumerate(sets.items()):
        table = "data" if name == MAIN else f"data.sets.{name}"
        if choice.head and choice.head not in heads:
            raise ValueError(
                f"'{table}.head' must be one of 'model.heads', got {choice.head!r}{suggestion(choice.head, heads)}"
            )
        first = head_of_set.index(head_of_set[number])
        if choice.reference_energies and first != number:
            raise ValueError(
                f"'{table}.reference_energies' must be in the first set of their head, '{list(sets)[first]}'; move them"
            )
    for head in heads:
        if head not in head_of_set:
            raise ValueError(
                f"each of 'model.heads' must be the 'head' of a data set, but no set trains {head!r}; add "
                f'head = "{head}" to a table [data.sets.NAME], or remove it'
            )
