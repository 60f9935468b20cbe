"""Checkpoints: ours come back as they were; bad files are refused with a message and never run."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import systems
import torch
from conftest import random_chgnet
from evaluate import outputs_of

from uip.checkpoint import load_model, parse_device, save_checkpoint
from uip.importers.published import PUBLISHED
from uip.models.card import ModelCard


def test_round_trip(tmp_path: Path) -> None:
    model = random_chgnet()
    model.card = ModelCard(name="mine", licence="CC0")
    save_checkpoint(model, tmp_path / "mine.ckpt")
    again = load_model(tmp_path / "mine.ckpt", dtype="float64")
    assert again.card == model.card
    assert again.config == model.config
    assert torch.equal(outputs_of(again, systems.nio()).forces, outputs_of(model, systems.nio()).forces)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.ckpt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(random_chgnet(), tmp_path / "mine.ckpt")
    before = (tmp_path / "mine.ckpt").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(random_chgnet(seed=1), tmp_path / "mine.ckpt")
    assert (tmp_path / "mine.ckpt").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mine.ckpt"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_models_load_without_importing_their_package(name: str) -> None:
    import sys

    model = load_model(name)
    assert model.card.name == name
    assert model.elements[-1] == (17 if name == "saltwater-mini" else 94)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert "chgnet" not in sys.modules


def test_published_file_by_path() -> None:
    path = PUBLISHED["chgnet-0.3.0"].find()
    assert torch.equal(load_model(path).magmom.weight, load_model("chgnet-0.3.0").magmom.weight)


def test_missing_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(PUBLISHED["chgnet-0.3.0"], package="no_such_package")
    monkeypatch.setitem(PUBLISHED, "chgnet-0.3.0", missing)
    with pytest.raises(FileNotFoundError, match=r"run 'pip install --no-deps chgnet==0\.4\.2'"):
        load_model("chgnet-0.3.0")


class Harmful:
    """Unpickling this would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (open, (str(self.target), "w"))


def test_a_pickle_with_code_is_refused_not_run(tmp_path: Path) -> None:
    target = tmp_path / "was_run"
    torch.save({"model": Harmful(target)}, tmp_path / "bad.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"model": Harmful(target)}, protocol=2))
    for name in ("bad.ckpt", "bare.ckpt"):
        with pytest.raises(ValueError, match="was refused: loading it could execute code"):
            load_model(tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    whole = PUBLISHED["chgnet-0.3.0"].find().read_bytes()
    path = tmp_path / "cut.pth.tar"
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"cut\.pth\.tar must be a torch checkpoint"):
        load_model(path)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("not a model")
    with pytest.raises(ValueError, match="must be a torch checkpoint"):
        load_model(tmp_path / "text.ckpt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="must be a uip checkpoint or a published CHGNet"):
        load_model(tmp_path / "other.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nowhere\.ckpt"):
        load_model(tmp_path / "nowhere.ckpt")
    with pytest.raises(ValueError, match=r"unknown model 'chgnet-0\.4\.0'.*did you mean 'chgnet-0\.[23]\.0'\?"):
        load_model("chgnet-0.4.0")


def rewritten(tmp_path: Path, **changes: object) -> Path:
    save_checkpoint(random_chgnet(), tmp_path / "mine.ckpt")
    content = torch.load(tmp_path / "mine.ckpt", weights_only=True)
    content.update(changes)
    torch.save(content, tmp_path / "mine.ckpt")
    return tmp_path / "mine.ckpt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "was written with schema 99, this build reads 2; update uip"),
        ({"model": "chgent"}, "unknown model 'chgent'; did you mean 'chgnet'"),
        ({"state": {}}, "do not fit the architecture"),
        ({"settings": {"chanels": 3}}, "unknown key 'chanels'; did you mean 'channels'"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(rewritten(tmp_path, **changes))


def test_dtype_and_device() -> None:
    with pytest.raises(ValueError, match=r"`dtype` must be 'float32' or 'float64' .*, got 'float16'"):
        load_model("chgnet-0.3.0", dtype="float16")
    with pytest.raises(ValueError, match="`device` must be 'cpu', 'cuda'"):
        load_model("chgnet-0.3.0", device="gpu")
    with pytest.raises(ValueError, match="`device` must be 'cpu', 'cuda'"):
        parse_device("meta")
    with pytest.raises(ValueError, match=r"torch sees \d+ GPUs; use 'cpu'"):
        parse_device("cuda:7")
