"""The ASE calculator."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress

import uip
from uip.checkpoint import dtype_name
from uip.config import suggestion
from uip.graph.ase_io import charge_and_spin, structure_from_atoms
from uip.importers.published import PUBLISHED
from uip.inference.committee import Committee, Source, deviations, load_evaluators
from uip.inference.evaluator import Evaluator, split
from uip.inference.origin import checksum, joint_checksum
from uip.inference.stresses import atomic_stresses
from uip.inference.uncertainty import uncertainties
from uip.models.potential import Potential

ARGUMENTS = ("model", "head", "device", "dtype", "skin", "trusted", "forces")
OF_ASE = ("atoms", "label", "directory")
"""Arguments of ASE's own class."""


class Calculator(ASECalculator):
    """A potential as an ASE calculator: energies, forces, stress(es) and magnetic moments in ASE's units.

        atoms.calc = Calculator("chgnet-0.3.0")

    Args:
        model: a published name (`uip models` lists them), a checkpoint, an exported .pt2 or .pt, or a model. A list of
            them is a committee: results are means, and `results` also has `uip.inference.committee.DEVIATIONS`. Of a
            calibrated model `results` also has `uip.inference.uncertainty.UNCERTAINTIES`.
        head: level of theory, of a checkpoint with several heads.
        device: "cpu", "cuda", "cuda:1", ... or "auto"; default the CPU, or the device of an exported file.
        dtype: "float32", "float64", or "bfloat16" (AllScAIP: faster, forces to about a percent), or torch's own;
            default float32, or that of a given model or exported file.
        skin: A; the neighbour list is searched again when atoms may have moved by half of it.
        trusted: a file of public keys, one of which must have signed the exported file `model` (docs/files.md).
        forces: False: energies and magnetic moments alone, for Monte Carlo, in 0.4 of the time (CHGNet); `model` is no
            exported file.

    Copies made by `copy.deepcopy` share the model. Copies made by pickle load it again, from the same file or name.
    Threads may share a calculator: their calls wait for each other. `stresses` follow `compute stress/atom` of LAMMPS.

    Raises:
        TypeError: an unknown argument.
        ValueError, FileNotFoundError: see `uip.checkpoint.load_model` and `uip.program.reader.load_program`.
    """

    def __init__(
        self,
        model: Source | Sequence[Source],
        *,
        head: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        skin: float = 0.5,
        trusted: str | Path | None = None,
        forces: bool = True,
        **kwargs: Any,
    ) -> None:
        _check_names(kwargs, OF_ASE)
        self._lock = threading.RLock()
        self._given: dict[str, Any] = {}
        super().__init__(**kwargs)
        self.set(model=model, head=head, device=device, dtype=dtype, skin=skin, trusted=trusted, forces=forces)

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change arguments of the constructor; returns what changed. Results are forgotten.

        Raises:
            TypeError: an unknown argument.
            ValueError, FileNotFoundError: as of the constructor; the calculator stays as it was.
        """
        _check_names(kwargs, ())
        given = {**self._given, **_plain(kwargs)}
        changed = {name: given[name] for name in kwargs if name not in self._given or given[name] != self._given[name]}
        if not changed:
            return {}
        with self._lock:
            evaluator = getattr(self, "evaluator", None)
            if evaluator is None or changed.keys() - {"skin"}:
                evaluator = load_evaluators(
                    _sources(given["model"]),
                    head=given["head"],
                    device=given["device"],
                    dtype=given["dtype"],
                    trusted=given["trusted"],
                    forces=given["forces"],
                )
            self._use(evaluator, given)
        return changed

    def _use(self, evaluator: Evaluator | Committee, given: dict[str, Any]) -> None:
        self.neighbors = evaluator.neighbor_list(skin=given["skin"])
        self.evaluator, self._given = evaluator, given
        self.implemented_properties = ["energy", "free_energy", "energies", *evaluator.properties]
        self.parameters = self._describe()
        self.reset()

    def _describe(self) -> dict[str, Any]:
        members, sources = self.evaluator.members, _sources(self._given["model"])
        potential = members[0].potential
        pairs = list(zip(sources, members, strict=True))
        return {
            "model": " + ".join(
                member.name if isinstance(source, Potential) else str(source) for source, member in pairs
            ),
            "name": self.evaluator.name,
            "version": uip.__version__,
            "dtype": potential.precision,
            "device": str(potential.device),
            "skin": self._given["skin"],
            "checksum": joint_checksum([checksum(source, member.potential) for source, member in pairs]),
        }

    def _get_name(self) -> str:
        return str(self.parameters["name"])

    def __repr__(self) -> str:
        p = self.parameters
        return (
            f"<uip.Calculator {p['name']}, {p['dtype']} on {p['device']}, uip {p['version']}, "
            f"sha256 {p['checksum'][:12]}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        given = self._given
        if _is_in_memory(given["model"]):
            members = self.evaluator.members
            sources = [
                member.potential if isinstance(source, Potential) else source
                for source, member in zip(_sources(given["model"]), members, strict=True)
            ]
            model = sources if isinstance(given["model"], list) else sources[0]
            given = {**given, "model": model, "dtype": members[0].potential.precision}
        kept = {
            name: value for name, value in vars(self).items() if name in ("atoms", "results", "_directory", "prefix")
        }
        return _restore, (type(self), given), kept

    def __deepcopy__(self, memo: dict[int, Any]) -> Calculator:
        twin = type(self).__new__(type(self))
        twin._lock, twin._given = threading.RLock(), {}
        ASECalculator.__init__(twin, label=None, directory=self.directory)
        twin._use(self.evaluator, dict(self._given))
        with self._lock:
            twin.atoms = None if self.atoms is None else self.atoms.copy()
            twin.results = {
                name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.results.items()
            }
        return twin

    def as_dict(self) -> dict[str, Any]:
        """For monty's JSON; `from_dict` makes the same calculator of it.

        Raises:
            ValueError: the model is no file and has no published name.
        """
        if _is_in_memory(self._given["model"]):
            raise ValueError(
                "only a calculator of a published name or a file can become JSON, got one of a model in memory; "
                "write the model with `uip.checkpoint.save_checkpoint` and use that file"
            )
        return {"@module": "uip.calculator", "@class": "Calculator", "@version": uip.__version__, **self._given}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calculator:
        """The calculator that `as_dict` described."""
        return cls(**{name: value for name, value in values.items() if not name.startswith("@")})

    def get_spin_polarized(self) -> bool:
        """False, as of other potentials. Without it ASE gives each object a method of its own, and with it a reference
        to itself: a calculator that is no longer used would keep its model until the next garbage collection."""
        return False

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """Changes since the last evaluation; for ASE `atoms.info`, with charge and spin, is no part of the state."""
        changes: list[str] = super().check_state(atoms, tol)
        if self.atoms is not None and charge_and_spin(atoms) != charge_and_spin(self.atoms):
            changes.append("info")
        return changes

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property, for one thread at a time; see ASE."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: tuple[str, ...] | list[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """One evaluation gives all properties, `stresses` if they are asked for.

        Raises:
            ValueError: no atoms, partly occupied sites, an unknown element, NaN positions, a singular cell, overlapping
                atoms, a charge or multiplicity (`atoms.info["charge"]`, `["spin"]`) that is no whole number.
            FloatingPointError: the model's energy or forces are not finite numbers.
        """
        with self._lock:
            super().calculate(atoms, properties, system_changes)
            self.results = {}
            structure = structure_from_atoms(self.atoms)
            self.evaluator.check_elements(structure.atomic_numbers)
            graph = self.neighbors.build(structure)
            outputs = self.evaluator(graph)
            (prediction,) = split(outputs, [graph.num_atoms])
            self.results = _results(prediction)
            stresses = atomic_stresses(graph, outputs) if "stresses" in properties else None
            if stresses is not None:
                self.results["stresses"] = stresses


UIPCalculator = Calculator
"""The same, for scripts that import several calculators."""


def _results(prediction: Mapping[str, Any]) -> dict[str, Any]:
    energy = float(prediction["energy"])
    results = {
        "energy": energy,
        "free_energy": energy,
        "energies": prediction["node_energy"],
    }
    results |= deviations(prediction) | uncertainties(prediction)
    if "forces" in prediction:
        results["forces"] = prediction["forces"]
    if "magmoms" in prediction:
        results |= {"magmoms": prediction["magmoms"], "magmom": float(prediction["magmoms"].sum())}
    if "stress" in prediction and np.isfinite(prediction["stress"]).all():
        results["stress"] = full_3x3_to_voigt_6_stress(prediction["stress"])
    return results


def _check_names(given: Mapping[str, Any], also: tuple[str, ...]) -> None:
    for name in given:
        if name in ("charge", "spin"):
            raise TypeError(f"`{name}` belongs to the atoms, not to Calculator; set atoms.info['{name}']")
        if name not in (*ARGUMENTS, *also):
            raise TypeError(f"Calculator has no argument `{name}`{suggestion(name, (*ARGUMENTS, *also))}")


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as values that pickle and JSON know; a file by its absolute path, also for other folders."""
    plain = dict(given)
    if isinstance(plain.get("dtype"), torch.dtype):
        plain["dtype"] = dtype_name(plain["dtype"])
    if isinstance(plain.get("device"), torch.device):
        plain["device"] = str(plain["device"])
    if plain.get("trusted") is not None:
        plain["trusted"] = str(Path(plain["trusted"]).absolute())
    model = plain.get("model")
    if isinstance(model, (list, tuple)):
        plain["model"] = [_plain_source(source) for source in model]
    elif model is not None:
        plain["model"] = _plain_source(model)
    return plain


def _plain_source(model: Source) -> Source:
    if isinstance(model, (str, Path)) and str(model) not in PUBLISHED and Path(model).exists():
        return str(Path(model).absolute())
    return model


def _sources(model: Source | Sequence[Source]) -> Sequence[Source]:
    """The models of a committee, or the model in a list."""
    return [model] if isinstance(model, (str, Path, Potential)) else model


def _is_in_memory(model: Source | Sequence[Source]) -> bool:
    return any(isinstance(source, Potential) for source in _sources(model))


def _restore(cls: type[Calculator], given: dict[str, Any]) -> Calculator:
    return cls(**given)
