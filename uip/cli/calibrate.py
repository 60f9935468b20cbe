"""`uip calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from uip.cli.errors import errors, user_errors
from uip.cli.options import AsJson, EnergyKey, Head, check_output
from uip.cli.tables import print_reliability


def calibrate(
    model: Annotated[str, typer.Argument(help="A published name or a checkpoint.")],
    data: Annotated[Path, typer.Argument(help="Structures with energies, in any format that ASE reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint of the calibrated model.")],
    head: Head = None,
    held_out: Annotated[float, typer.Option(help="Fraction of the structures for the factor.")] = 0.2,
    figure: Annotated[Path | None, typer.Option(help="Real against predicted errors (.png, .svg, .pdf).")] = None,
    energy_key: EnergyKey = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a model uncertainties of its energies: from the features of its last layer on labelled structures.

    Best are structures like those of the training data, which the model has not seen: of those it has seen, errors are
    too small.
    """
    with user_errors():
        from uip.checkpoint import load_heads, save_checkpoint
        from uip.inference.calibration import calibrate as find_calibration
        from uip.inference.calibration import quality_of
        from uip.inference.evaluator import PROGRAM_SUFFIXES
        from uip.inference.reliability import reliability_plot
        from uip.models.heads import one_head

        check_output(output, (".ckpt",), force=force)
        check_output(figure, (".png", ".svg", ".pdf"), force=True)
        if Path(model).suffix in PROGRAM_SUFFIXES:
            raise ValueError(
                f"a model is calibrated before it is exported, but '{model}' is an exported file; give the checkpoint "
                "or published name that it was exported from"
            )
        every = load_heads(model, dtype="float64")  # weights must not be rounded when they are written again
        potential = one_head(every, head, model)
        structures, energies = _labelled(data, potential, energy_key)
        found = find_calibration(potential, structures, energies, held_out=held_out)
        if potential.calibration is not None:
            _say(f"'{model}' was calibrated already; the new calibration replaces that one")
        potential.calibration = found.calibration
        save_checkpoint(every, output)
        title = f"{potential.card.name} on {data.name}"
        record = found.calibration.record
        print_reliability(quality_of(record), f"{title}, {record.held_out} structures held out", as_json=as_json)
        _warn_of_offset(found.error)
        if figure is not None:
            reliability_plot(found.error, found.sigma, figure, title)
            _say(f"figure: {figure}")
        _say(f"written: {output}, calibrated on {record.structures} + {record.held_out} structures")


def _say(text: str) -> None:
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def _labelled(data: Path, potential: Any, energy_key: str) -> tuple[list[Any], Any]:
    """Structures that have an energy, and the energies, (B,) eV."""
    import numpy as np

    from uip.cli.options import checked_structures
    from uip.data.labels import LabelKeys, check_labels, labels_from_atoms
    from uip.inference.evaluator import load_evaluator

    frames, structures = checked_structures([data], load_evaluator(potential, forces=False))
    pairs = []
    for number, ((_, atoms), structure) in enumerate(zip(frames, structures, strict=True)):
        label = labels_from_atoms(atoms, LabelKeys(energy=energy_key)).get("energy")
        if label is None:
            continue
        try:
            check_labels(structure, {"energy": label})
        except ValueError as error:
            raise ValueError(f"{data}, structure {number}: {error}") from error
        pairs.append((structure, float(label)))
    if not pairs:
        raise ValueError(
            f"{data} must carry energies, but no structure has any; give labelled structures, or name the entry with "
            "--energy-key"
        )
    return [structure for structure, _ in pairs], np.array([label for _, label in pairs])


def _warn_of_offset(error: Any) -> None:
    """Labels on another scale would be taken for errors of the model."""
    offset = error.mean()
    if abs(offset) > 0.5 * abs(error).mean():
        errors.print(
            f"uip: predicted energies differ from the labels by {1e3 * offset:+.0f} meV/atom on average: labels and "
            "model probably have different energy references (corrections, functional, pseudopotentials). The "
            "uncertainty includes this difference; bring the labels to the model's scale and calibrate again.",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
