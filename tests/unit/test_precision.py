"""bfloat16 products and recomputed layers: offered by AllScAIP, refused by others, the same from eager to programs."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import systems
import torch
from conftest import random_allscaip, random_chgnet
from export_files import exported, source
from typer.testing import CliRunner

import uip
from uip.checkpoint import for_inference, save_checkpoint
from uip.cli.app import app
from uip.inference.evaluator import load_evaluator
from uip.program.writer import export_model


def forces_of(atoms: ase.Atoms, **kwargs: object) -> np.ndarray:
    atoms = atoms.copy()
    atoms.calc = uip.Calculator(**kwargs)
    return atoms.get_forces()


def test_bfloat16_moves_forces_by_a_percent() -> None:
    model, atoms = random_allscaip(angular=True), systems.water()
    exact, half = (forces_of(atoms, model=model, dtype=dtype) for dtype in ("float64", "bfloat16"))
    error = np.sqrt(((half - exact) ** 2).mean() / (exact**2).mean())
    assert 1e-4 < error < 3e-2


def test_a_model_keeps_its_precision() -> None:
    model = for_inference(random_allscaip(), dtype="bfloat16", device="cpu")
    assert load_evaluator(model).title.endswith("bfloat16")
    assert load_evaluator(model, dtype="float64").title.endswith("float64")


@pytest.mark.slow
def test_programs_multiply_in_bfloat16() -> None:
    file = exported("allscaip-plain", ".pt", "bfloat16")
    assert load_evaluator(file).title.endswith("bfloat16")
    eager = forces_of(systems.water(), model=source("allscaip-plain"), dtype="bfloat16")
    np.testing.assert_allclose(forces_of(systems.water(), model=file), eager, rtol=0, atol=1e-3 * np.abs(eager).max())


@pytest.mark.long
@pytest.mark.slow
def test_compiled_programs_multiply_in_bfloat16(tmp_path: Path) -> None:
    model, file = random_allscaip(num_layers=1), tmp_path / "half.pt2"
    export_model(model, file, dtype="bfloat16")
    eager = forces_of(systems.water(), model=model, dtype="bfloat16")
    np.testing.assert_allclose(forces_of(systems.water(), model=file), eager, rtol=0, atol=1e-3 * np.abs(eager).max())


@pytest.mark.slow
def test_programs_recompute(tmp_path: Path) -> None:
    """The same numbers; queries, keys and values are not among the tensors of the program."""
    model = random_allscaip(num_layers=1)
    export_model(model, tmp_path / "small.pt", dtype="float64", recompute=True)
    kept = forces_of(systems.water(), model=model, dtype="float64")
    np.testing.assert_allclose(forces_of(systems.water(), model=tmp_path / "small.pt"), kept, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_precision_of_a_program_cannot_be_changed() -> None:
    file = exported("allscaip-plain", ".pt", "bfloat16")
    with pytest.raises(
        ValueError, match="`dtype` is float32, but 'unnamed' was exported for bfloat16; leave `dtype` out"
    ):
        load_evaluator(file, dtype="float32")


def test_chgnet_offers_neither(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`dtype` 'bfloat16' is not offered by chgnet; take 'float32'"):
        uip.Calculator(random_chgnet(), dtype="bfloat16")
    with pytest.raises(ValueError, match="`dtype` 'bfloat16' is not offered by chgnet"):
        uip.Calculator("chgnet-0.3.0", dtype="bfloat16")
    with pytest.raises(ValueError, match="`recompute` is not offered by chgnet; leave it out"):
        export_model(random_chgnet(), tmp_path / "x.pt", recompute=True)


@pytest.mark.slow
def test_the_command_exports_constants_in_float64(tmp_path: Path) -> None:
    """A checkpoint of float32 weights: constants of its bases are not rounded to float32 on the way."""
    save_checkpoint(random_allscaip(num_layers=1, angular=True).to(torch.float32), tmp_path / "model.ckpt")
    paths = [str(tmp_path / name) for name in ("model.ckpt", "model.pt")]
    command = ["export", paths[0], "-o", paths[1], "--dtype", "float64"]
    assert CliRunner().invoke(app, command).exit_code == 0
    eager, program = (forces_of(systems.water(), model=paths[k], **({"dtype": "float64"}, {})[k]) for k in (0, 1))
    np.testing.assert_allclose(program, eager, rtol=0, atol=1e-12)
