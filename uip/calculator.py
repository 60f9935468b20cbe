"""The ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from uip.graph.ase_io import charge_and_spin, structure_from_atoms
from uip.inference.evaluator import load_evaluator, split
from uip.models.potential import Potential


class Calculator(ASECalculator):
    """A potential as an ASE calculator: energy, free_energy, energies, forces, stress, magmoms (ASE units).

        atoms.calc = Calculator("chgnet-0.3.0")

    Args:
        model: a published name (`uip models` lists them), a checkpoint, an exported .pt2 or .pt, or a model.
        device: "cpu", "cuda", "cuda:1", ... or "auto"; default the CPU, or what an exported file was made for.
        dtype: "float32", "float64", or "bfloat16" (AllScAIP: faster, forces to about a percent); default float32, or
            what a given model or exported file has.
        skin: A; the neighbour list is searched again when atoms may have moved by half of it.

    Stress needs three cell vectors; without them ASE says that the property is not present.

    Raises:
        ValueError, FileNotFoundError: see `uip.checkpoint.load_model` and `uip.program.load_program`.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress", "magmoms"]  # noqa: RUF012

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        device: str | None = None,
        dtype: str | None = None,
        skin: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.evaluator = load_evaluator(model, device=device, dtype=dtype)
        self.neighbors = self.evaluator.neighbor_list(skin=skin)

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last evaluation; to ASE `atoms.info`, with charge and spin, is no part of it."""
        changes: list[str] = super().check_state(atoms, tol)
        if self.atoms is not None and charge_and_spin(atoms) != charge_and_spin(self.atoms):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: tuple[str, ...] | list[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """One evaluation gives all properties.

        Raises:
            ValueError: no atoms, an unknown element, NaN positions, a singular cell, overlapping atoms, a charge or
                multiplicity (`atoms.info["charge"]`, `["spin"]`) that is no whole number.
            FloatingPointError: the model's energy or forces are not finite numbers.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        structure = structure_from_atoms(self.atoms)
        self.evaluator.check_elements(structure.atomic_numbers)
        graph = self.neighbors.build(structure)
        (prediction,) = split(self.evaluator(graph), [graph.num_atoms])
        energy = float(prediction["energy"])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": prediction["node_energy"],
            "forces": prediction["forces"],
        }
        if "magmoms" in prediction:
            self.results["magmoms"] = prediction["magmoms"]
        if "stress" in prediction and np.isfinite(prediction["stress"]).all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction["stress"])
