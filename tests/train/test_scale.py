"""The scale of a new model's outputs: the size of the force labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small

from uip.checkpoint import load_model
from uip.train.loop import train

ALLSCAIP = {
    "kind": "allscaip",
    "architecture": {"num_elements": 30, "channels": 8, "num_layers": 1, "num_heads": 2, "num_radial": 8},
}
ONE = {"epochs": 1}


def test_outputs_start_at_the_size_of_the_forces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    file = small.write_frames(tmp_path / "data.xyz", 4)
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in small.frames(4)])
    scales = []
    for name, scale in (("none", "none"), ("rmsd", "rmsd")):
        train(small.config(tmp_path / name, file, model=ALLSCAIP, data={"scale": scale}, run=ONE))
        scales.append(float(load_model(tmp_path / name / "best.ckpt", dtype="float64").energy_scale))
    assert scales == pytest.approx([1.0, np.sqrt(np.mean(forces**2))], rel=1e-7)  # labels of forces are float32


def test_it_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.without_figures(monkeypatch)
    file = small.write_frames(tmp_path / "data.xyz", 4)
    data = {"scale": "rmsd"}
    train(small.config(tmp_path / "run", file, model=ALLSCAIP, data=data, run=ONE))
    before = load_model(tmp_path / "run" / "last.ckpt", dtype="float64").energy_scale
    monkeypatch.setattr("uip.train.scale.rms_force", lambda dataset: 99.0)
    train(small.config(tmp_path / "run", file, model=ALLSCAIP, data=data, run={"epochs": 2}), resume=True)
    assert load_model(tmp_path / "run" / "last.ckpt", dtype="float64").energy_scale == before


def test_where_it_makes_no_sense(tmp_path: Path) -> None:
    file = small.write_frames(tmp_path / "data.xyz", 4)
    with pytest.raises(ValueError, match=r"'data\.scale' must be 'rmsd' or 'none', got 'std'"):
        small.config(tmp_path / "a", file, data={"scale": "std"})
    with pytest.raises(ValueError, match="needs an architecture with a scale, allscaip, got chgnet"):
        train(small.config(tmp_path / "b", file, data={"scale": "rmsd"}, run=ONE))
    model = {"init_from": "chgnet-0.3.0", "architecture": {}}
    tuning = small.config(tmp_path / "c", file, model=model, data={"scale": "rmsd", "reference": "keep"}, run=ONE)
    with pytest.raises(ValueError, match=r"is for new models, but 'model\.init_from' is set"):
        train(tuning)
