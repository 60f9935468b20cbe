"""Label checks: warnings about signs and units that look wrong, and about duplicates.

Without a model: within each formula, stress must increase with volume, and its slope is a bulk modulus K,

    trace(stress) / 3 = K ln(volume per atom) + constant,        K between 1 and 600 GPa for solids,

and energies per atom must not differ by the ratio of two units. With a model: label = factor * prediction; a factor
near a ratio of units (`UNITS`), or a negative factor, gives a warning. Model errors up to a third are tolerated.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from uip.data.dataset import Dataset
from uip.data.split import reduced_formula
from uip.schema import Floats
from uip.units import EV_PER_A3_TO_GPA

Labels = Mapping[str, Floats]

UNITS: dict[str, dict[str, float]] = {
    "energy": {"hartree": 1 / 27.2114, "rydberg": 1 / 13.6057, "kcal/mol": 23.0605, "kJ/mol": 96.4853},
    "forces": {"hartree/bohr": 1 / 51.4221, "rydberg/bohr": 1 / 25.711, "kcal/mol/A": 23.0605, "kJ/mol/A": 96.4853},
    "stress": {"GPa": EV_PER_A3_TO_GPA, "kBar": 10 * EV_PER_A3_TO_GPA},
}
"""Values of 1 eV, 1 eV/A, 1 eV/A^3 in other units."""

SOLID = (1.0, 600.0)
"""GPa: range of bulk moduli, from soft molecular crystals to above diamond (440)."""

LARGEST_STRAIN = 0.15
"""Largest volume strain; beyond it the cell contains vacuum."""

LARGE = {"forces": 0.05, "stress": 0.5 / EV_PER_A3_TO_GPA}
"""Smallest root mean square of a prediction, eV/A and eV/A^3, for which its label is checked."""


@dataclass(frozen=True)
class Summary:
    """Input of the label checks, (B,) each; NaN without label or volume."""

    formulas: Sequence[str]
    atoms: Floats
    volume: Floats
    """A^3."""
    energy: Floats
    """eV/atom."""
    tension: Floats
    """A third of the trace of the stress, GPa."""


def summarise(data: Dataset, limit: int = 5000) -> Summary:
    """Summary of at most `limit` samples, evenly spaced in the data set."""
    numbers = np.unique(np.linspace(0, len(data) - 1, min(limit, len(data))).astype(np.int64))
    atoms = data.counts("N")[numbers].astype(np.float64)
    volume = np.array([abs(float(data.read("cell", k)[0].det())) for k in numbers])
    stress = np.array([float(data.read("stress", k)[0].trace()) for k in numbers])
    return Summary(
        formulas=[reduced_formula(data.read("atomic_numbers", k).numpy()) for k in numbers],
        atoms=atoms,
        volume=np.where(volume > 1e-9, volume, np.nan),
        energy=np.array([data.read("energy", k).item() for k in numbers]) / atoms,
        tension=stress / 3 * EV_PER_A3_TO_GPA,
    )


def label_warnings(summary: Summary) -> list[str]:
    """Warnings about the labels of a data set."""
    return _stress_warnings(summary) + _energy_warnings(summary)


def bulk_modulus(summary: Summary) -> tuple[float, float, int]:
    """Slope of stress against strain within formulas, GPa, their correlation, and the number of structures."""
    known = np.flatnonzero(np.isfinite(summary.tension) & np.isfinite(summary.volume))
    groups: dict[str, list[int]] = {}
    for k in known.tolist():
        groups.setdefault(summary.formulas[k], []).append(k)
    strains, tensions = [np.zeros(0)], [np.zeros(0)]
    for members in groups.values():
        strain, tension = np.log(summary.volume[members] / summary.atoms[members]), summary.tension[members]
        near = abs(strain - np.median(strain)) < LARGEST_STRAIN
        if near.sum() >= 3:
            strains.append(strain[near] - strain[near].mean())
            tensions.append(tension[near] - tension[near].mean())
    x, y = np.concatenate(strains), np.concatenate(tensions)
    norms = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if x.size < 6 or x.std() < 3e-3 or norms[1] == 0.0:
        return float("nan"), 0.0, x.size
    return float(x @ y) / norms[0] ** 2, float(x @ y) / (norms[0] * norms[1]), x.size


def _stress_warnings(summary: Summary) -> list[str]:
    modulus, correlation, count = bulk_modulus(summary)
    if abs(correlation) < 0.5:
        return []
    found = f"over {count} structures stress changes with volume like a bulk modulus of {modulus:.3g} GPa"
    if modulus < -SOLID[1]:
        return [
            f"{found}: sign and unit look wrong, as of stress in kBar from VASP; "
            'try stress_sign = "compression" and stress_unit = "kBar"'
        ]
    if modulus < 0:
        return [f'{found}: its sign looks inverted; try stress_sign = "compression"']
    if modulus > SOLID[1]:
        fits = [unit for unit, factor in UNITS["stress"].items() if SOLID[0] < modulus / factor < SOLID[1]]
        return [f"{found}: its unit looks wrong; try stress_unit = {' or '.join(map(repr, fits)) or 'another'}"]
    if modulus < SOLID[0] / 2:
        return [f"{found}: too soft for a solid, its unit looks wrong"]
    return []


def _energy_warnings(summary: Summary) -> list[str]:
    """Warnings about energies that differ from others of their formula by a ratio of units, or are per atom.

    Not where energies of one formula have both signs: ratios to an energy near zero mean nothing.
    """
    groups = {
        name: summary.energy[[k for k, other in enumerate(summary.formulas) if other == name]]
        for name, count in Counter(summary.formulas).items()
        if count >= 3
    }
    medians = {
        name: float(np.nanmedian(energy))
        for name, energy in groups.items()
        if np.isfinite(energy).any() and not np.nanmin(energy) < 0.0 < np.nanmax(energy)
    }
    strange: dict[str, list[int]] = {}
    for k, name in enumerate(summary.formulas):
        median, energy = medians.get(name, np.nan), summary.energy[k]
        if not (np.isfinite(energy) and abs(median) > 0.1):
            continue
        known = {**UNITS["energy"], "eV/atom": 1.0 / summary.atoms[k]}
        for unit, factor in known.items():
            if abs(factor - 1.0) > 0.2 and abs(energy / median / factor - 1.0) < 0.05:
                strange.setdefault(unit, []).append(k)
    return [
        f"energies of {_listed(numbers)} look like {unit} among others of their formula in eV; use total energies in eV"
        for unit, numbers in strange.items()
    ]


def duplicate_warnings(training: Dataset, validation: Dataset, limit: int = 100_000) -> list[str]:
    """Warnings about duplicates in the training set, and about validation structures that are also in the training set.

    Data sets of more than `limit` structures are not searched.
    """
    if len(training) + len(validation) > limit:
        return []
    keys, checked = ([_key(data, k) for k in range(len(data))] for data in (training, validation))
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    result = []
    twice = [k for k, key in enumerate(keys) if first[key] != k]
    if twice:
        number = int(training.chosen[twice[0]])
        result.append(f"{len(twice)} of {len(keys)} training structures are duplicates, the first is number {number}")
    shared = [k for k, key in enumerate(checked) if key in first]
    if shared:
        result.append(
            f"{len(shared)} of {len(checked)} validation structures are also in the training set, the first is number "
            f"{int(validation.chosen[shared[0]])}: validation errors will be too low"
        )
    return result


def _key(data: Dataset, number: int) -> bytes:
    """Hash that equal structures share; positions are rounded to 1e-6 A."""
    numbers = data.read("atomic_numbers", number).numpy().tobytes()
    points = b"".join(data.read(name, number).numpy().round(6).tobytes() for name in ("positions", "cell"))
    return hashlib.sha256(numbers + points).digest()


def warnings_against_model(labels: Sequence[Labels], predictions: Sequence[Labels]) -> list[str]:
    """Warnings about labels that do not fit the predictions of a model for the same structures."""
    result = []
    for name in LARGE:
        factors = np.array([_factor(name, one, other) for one, other in zip(labels, predictions, strict=True)])
        known = np.flatnonzero(np.isfinite(factors))
        if known.size < 3:
            continue
        kinds = {int(k): _kind(name, factors[k]) for k in known}
        usual = Counter(kinds.values()).most_common(1)[0][0]
        others = [k for k, kind in kinds.items() if kind != usual and kind != "unclear"]
        if usual not in ("as they should be", "unclear"):
            result.append(f"{name} are {np.median(factors[known]):.3g} times the prediction: they look {usual}")
        if others and usual != "unclear":
            kind = Counter(kinds[k] for k in others).most_common(1)[0][0]
            result.append(f"{name} of {_listed([k for k in others if kinds[k] == kind])} look {kind}, unlike the rest")
    return result + _shear_warnings(labels, predictions)


def _shear_warnings(labels: Sequence[Labels], predictions: Sequence[Labels]) -> list[str]:
    """Warning if off-diagonal stresses fit the model far better in another order: Voigt orders differ between codes."""
    rows, columns = [1, 0, 0], [2, 2, 1]  # yz, xz, xy
    both = [k for k, one in enumerate(labels) if "stress" in one and "stress" in predictions[k]]
    if len(both) < 3:
        return []
    given, predicted = (
        np.array([np.reshape(values[k]["stress"], (3, 3))[rows, columns] for k in both])
        for values in (labels, predictions)
    )
    known = np.isfinite(predicted).all(axis=1)
    given, predicted = given[known], predicted[known]
    errors = {order: float(np.square(given[:, order] - predicted).sum()) for order in permutations(range(3))}
    best = min(errors, key=lambda order: errors[order])
    if errors[best] > 0.5 * errors[0, 1, 2]:
        return []
    names = ("yz", "xz", "xy")
    found = ", ".join(f"{names[k]} is labelled {names[source]}" for k, source in enumerate(best) if k != source)
    return [f"shear stresses fit the model far better in another order: {found}; check the Voigt order of the file"]


def _factor(name: str, labels: Labels, prediction: Labels) -> float:
    """The factor from prediction to label; NaN if the two are not correlated."""
    if name not in labels or name not in prediction:
        return float("nan")
    x, y = np.ravel(prediction[name]), np.ravel(labels[name])
    size, other = np.linalg.norm(x), np.linalg.norm(y)
    if not size > LARGE[name] * np.sqrt(x.size) or abs(x @ y) < 0.8 * size * other:
        return float("nan")
    return float(x @ y / size**2)


def _kind(name: str, factor: float) -> str:
    """Interpretation of the factor from prediction to label."""
    units = {"": 1.0, **UNITS[name]}
    unit = min(units, key=lambda key: abs(np.log(abs(factor) / units[key])))
    if not 0.6 < abs(factor) / units[unit] < 1.6:
        return "unclear"
    parts = [f"given in {unit}"] * bool(unit) + ["inverted"] * bool(factor < 0)
    return " and ".join(parts) or "as they should be"


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"structure{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:8]))}{more}"
