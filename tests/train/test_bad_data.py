"""Errors and warnings about data and configs: one table of mistakes, one of warnings.

A mistake stops the run, before anything is learned where that can be known; a warning is printed and the run goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import systems
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from test_label_checks import strained
from test_ranks import torchrun
from test_read import disordered, matpes

from uip.checkpoint import load_model
from uip.train.__main__ import main
from uip.train.config import make_config, read_config
from uip.train.loop import train

Tables = dict[str, Any]


def labelled(atoms: Atoms, **labels: object) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def second(make: Callable[[], Atoms]) -> Callable[[Path], Tables]:
    """A file whose structure 1 is made by `make`; structure 0 is good."""

    def tables(folder: Path) -> Tables:
        write(folder / "bad.xyz", [small.frames(1)[0], make()])
        return {"data": {"train": str(folder / "bad.xyz"), "validation": []}}

    return tables


def entries(*values: Any, cut: int | None = None) -> Callable[[Path], Tables]:
    """A file of entries in JSON, perhaps cut short."""

    def tables(folder: Path) -> Tables:
        (folder / "bad.json").write_text(json.dumps(values)[:cut])
        return {"data": {"train": str(folder / "bad.json"), "validation": []}}

    return tables


def content(name: str, text: str) -> Callable[[Path], Tables]:
    """A file with any text in it."""

    def tables(folder: Path) -> Tables:
        (folder / name).write_text(text)
        return {"data": {"train": str(folder / name)}}

    return tables


def bare(folder: Path) -> Tables:
    write(folder / "bare.xyz", systems.water())
    return {"data": {"train": str(folder / "bare.xyz")}}


def one(folder: Path) -> Tables:
    return {"data": {"train": str(small.write_frames(folder / "one.xyz", 1)), "validation": []}}


def alike(folder: Path) -> Tables:
    write(folder / "alike.xyz", [small.frames(2)[1]] * 4)
    return {"data": {"train": str(folder / "alike.xyz"), "validation": [], "split_by": "formula"}}


def settings(**tables: Any) -> Callable[[Path], Tables]:
    """Good data, and these settings."""
    return lambda folder: tables


def elsewhere(folder: Path) -> Tables:
    (folder / "file").touch()
    return {"run": {"folder": str(folder / "file" / "run")}}


def another_run(folder: Path) -> Tables:
    (folder / "run").mkdir()
    (folder / "run" / "last.ckpt").touch()
    return {}


def busy_folder(folder: Path) -> Tables:
    """Another process trains there."""
    (folder / "run").mkdir()
    file = (folder / "run" / "lock").open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    OPEN[:] = [file]
    return {}


OPEN: list[Any] = []
"""Lock files, which stay open."""


def nan(*shape: int) -> Any:
    return np.full(shape, np.nan)


MISTAKES: dict[str, tuple[Callable[[Path], Tables], str]] = {
    # structures
    "NaN force": (
        second(lambda: labelled(systems.water(), forces=nan(3, 3))),
        r"structure 1: forces must be finite, got nan at \(0, 0\); remove the structure or this label",
    ),
    "infinite energy": (
        second(lambda: labelled(systems.water(), energy=np.inf)),
        "structure 1: energy must be finite, got",
    ),
    "stress without a volume": (
        second(lambda: labelled(systems.water(), stress=np.zeros(6))),
        "structure 1: a stress label needs three cell vectors",
    ),
    "element outside the model": (
        second(lambda: labelled(Atoms("Og"), energy=1.0)),
        "structure 1: the model must support every element, got Og; increase `num_elements` or remove the structure",
    ),
    "no atoms": (
        second(lambda: labelled(Atoms(cell=np.eye(3), pbc=True), energy=1.0)),
        "structure 1: a structure must have at least one atom",
    ),
    "overlapping atoms": (
        second(lambda: labelled(Atoms("H2", [[0, 0, 0], [0, 0, 1e-3]]), energy=1.0)),
        r"structure 1: atoms must be at least 0\.1 A apart, but atoms 0 and 1 are 0\.001 A apart",
    ),
    "flat cell": (
        second(lambda: labelled(Atoms("H", cell=[1, 1, 0], pbc=True), energy=1.0)),
        "structure 1: .*independent vectors",
    ),
    "NaN position": (
        second(lambda: labelled(Atoms("H", [[np.nan, 0, 0]]), energy=1.0)),
        "structure 1: .*finite",
    ),
    "forces of other atoms": (
        entries(matpes(), matpes(forces=[[0.0, 0.0, 0.0]])),
        r"structure 1: forces of 2 atoms must have shape \(2, 3\), got \(1, 3\)",
    ),
    "half a site": (entries(matpes(structure=disordered())), "structure 0: every site must hold one atom"),
    # files
    "no such file": (settings(data={"train": "nowhere.xyz"}), "no such file: nowhere.xyz"),
    "empty file": (content("empty.xyz", ""), "empty.xyz must be in a format that ASE reads .*: Empty file"),
    "another kind of file": (content("text.abc", "hello"), "text.abc must be in a format that ASE reads"),
    "file cut short": (entries(matpes(), matpes(), cut=-20), "bad.json, .*(Expecting|Unterminated)"),
    "no labels": (bare, "must carry labels .energy, forces, stress or magmoms., but no structure has any"),
    # splits
    "too few to split": (one, "a split needs at least two structures, got 1; give a validation file instead"),
    "empty split": (
        settings(data={"validation": [], "validation_fraction": 0.0}),
        r"`validation_fraction` must lie between 0 and 1, got 0\.0",
    ),
    "one group": (alike, r"a split by group needs at least two groups, got 1 \(Si\)"),
    "unknown group": (
        settings(data={"validation": [], "split_by": "mp_id"}),
        "'mp_id' is missing from structure 0, which has: nothing",
    ),
    # settings
    "misspelt key": (settings(data={"trian": "a"}), r"unknown key 'data\.trian'; did you mean 'train'"),
    "misspelt table": (settings(rum={}), "unknown key 'rum'; did you mean 'run'"),
    "wrong type": (settings(data={"batch_size": "big"}), r"'data\.batch_size' must be int, got 'big'"),
    "no data": (settings(data={"train": []}), r"'data\.train' must name at least one file"),
    "empty batches": (settings(data={"batch_size": 0}), r"'data\.batch_size' must be at least 1"),
    "more ranks than structures": (
        settings(data={"balance_for": 64}),
        r"'data\.balance_for' must lie between 1 and the batch size, got 64",
    ),
    "unknown unit": (settings(data={"stress_unit": "bar"}), r"'data\.stress_unit' must be one of eV/A\^3, GPa, kBar"),
    "unknown sign": (settings(data={"stress_sign": "up"}), r"'data\.stress_sign' must be one of tension, compression"),
    "unknown reference": (
        settings(data={"reference": "guess"}),
        r"'data\.reference' must be one of fit, keep, got 'guess'",
    ),
    "reference from nothing": (
        settings(data={"reference_structures": 0}),
        r"'data\.reference_structures' must be at least 1, got 0",
    ),
    "reference of nothing": (
        settings(data={"reference_energies": {"Xx": 1.0}}),
        r"unknown key 'data\.reference_energies\.Xx'",
    ),
    "nothing to learn": (
        settings(loss={"energy": 0.0, "forces": 0.0, "stress": 0.0, "magmoms": 0.0}),
        "loss weights must not be negative, nor all zero",
    ),
    "unknown schedule": (settings(optim={"schedule": "cosin"}), r"'optim\.schedule' must be one of cosine, constant"),
    "unknown optimizer": (settings(optim={"optimizer": "sgd"}), r"'optim\.optimizer' must be one of adamw, muon, got"),
    "endless average": (settings(optim={"ema": 1.0}), r"'optim\.ema' must lie in \[0, 1\["),
    "no rate": (settings(optim={"learning_rate": 0.0}), r"'optim\.learning_rate' must be positive"),
    "misspelt rate": (settings(optim={"learning_rte": 1.0}), r"unknown key 'optim\.learning_rte'; did you mean"),
    "no epochs": (settings(run={"epochs": 0}), r"'run\.epochs' must be at least 1"),
    "no patience": (settings(run={"patience": -1}), r"'run\.patience' must not be negative, got -1"),
    # models
    "unknown model": (settings(model={"init_from": "chgnet-9"}), "unknown model 'chgnet-9'"),
    "unknown part": (
        settings(model={"trainable": ["readot.*"]}),
        r"'model\.trainable' must name parts of the model, but 'readot",
    ),
    "no part": (settings(model={"trainable": []}), r"'model\.trainable' must name a part of the model, got none"),
    "unknown width": (
        settings(model={"architecture": {"chanels": 3}}),
        r"unknown key 'model\.architecture\.chanels'; did you mean 'channels'",
    ),
    "unknown dtype": (settings(run={"dtype": "half"}), r"`dtype` must be 'float32' or 'float64' .*, got 'half'"),
    "no such GPU": (settings(run={"device": "cuda:99"}), "`device` is 'cuda:99', but torch sees"),
    # places
    "folder that cannot be made": (
        elsewhere,
        r"run cannot be written \(Not a directory\); choose another 'run.folder'",
    ),
    "cache that cannot be made": (
        settings(data={"cache": "/dev/null/cache"}),
        r"/dev/null/cache cannot be written \(Not a directory\); free disk space, or choose another 'data.cache'",
    ),
    "folder of a run in progress": (busy_folder, "run, but another process trains there; wait for its end"),
    "folder of another run": (another_run, "run already contains a run; add --resume to continue it"),
    # while it runs
    "rate that explodes": (
        settings(optim={"learning_rate": 1e30, "clip": 0.0}),
        "the loss is not finite at step [0-9]+ .*; the structures of this step are in .*bad_step_rank0.xyz",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "four.xyz", 4)


@pytest.mark.filterwarnings("ignore::UserWarning:ase")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str, data: Path, tmp_path: Path) -> None:
    make, message = MISTAKES[mistake]
    with pytest.raises((ValueError, OSError, FloatingPointError), match=message):
        train(small.config(tmp_path / "run", data, **make(tmp_path)))


def test_the_table_is_long_enough() -> None:
    assert len(MISTAKES) >= 30


def mixed(folder: Path) -> Tables:
    write(folder / "a.xyz", strained(1.0, {2: 1 / 27.2114}))
    return {"data": {"train": str(folder / "a.xyz")}}


def inverted(folder: Path) -> Tables:
    write(folder / "a.xyz", strained(-1602.0))
    return {"data": {"train": str(folder / "a.xyz")}}


def twice(folder: Path) -> Tables:
    frames = small.frames(4)
    write(folder / "a.xyz", [*frames, frames[1]])
    write(folder / "b.xyz", small.frames(8)[3:])
    return {"data": {"train": str(folder / "a.xyz"), "validation": [str(folder / "b.xyz")]}}


WARNINGS: dict[str, tuple[Callable[[Path], Tables], list[str]]] = {
    "mixed units": (mixed, ["energies of structure 2 look like hartree among others of their formula in eV"]),
    "stress from VASP": (inverted, ["sign and unit look wrong, as of stress in kBar from VASP"]),
    "frames that occur twice": (
        twice,
        [
            "1 of 5 training structures are duplicates, the first is number 4",
            "1 of 5 validation structures are also in the training set, the first is number 0",
        ],
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_label_warning_is_printed(name: str, data: Path, tmp_path: Path) -> None:
    make, expected = WARNINGS[name]
    messages: list[str] = []
    train(small.config(tmp_path / "run", data, **make(tmp_path), run={"epochs": 1}), report=messages.append)
    for text in expected:
        assert any(line.startswith("warning: ") and text in line for line in messages), messages


def test_good_data_give_no_warning(data: Path, tmp_path: Path) -> None:
    """What is at fault above is the fault, not the check."""
    messages: list[str] = []
    frames = small.frames(8)
    write(tmp_path / "other.xyz", frames[4:])
    config = small.config(tmp_path / "run", data, data={"validation": [str(tmp_path / "other.xyz")]}, run={"epochs": 1})
    train(config, report=messages.append)
    assert not [line for line in messages if line.startswith("warning: ")]


def test_lonely_atoms_and_missing_labels_are_no_mistakes(tmp_path: Path) -> None:
    frames = [labelled(systems.lone_atom(), energy=-3.0), labelled(systems.water(), forces=np.zeros((3, 3)))]
    write(tmp_path / "a.xyz", [*frames, systems.water()])
    train(small.config(tmp_path / "run", tmp_path / "a.xyz", run={"epochs": 1}))


def test_configs_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m uip.train" in capsys.readouterr().err
    assert main([str(tmp_path / "no.toml")]) == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text("[data\n")
    with pytest.raises(ValueError, match="must be TOML"):
        read_config(tmp_path / "bad.toml")
    with pytest.raises(ValueError, match=r"'data\.train' must name at least one file"):
        make_config({})


def test_a_checkpoint_that_is_cut_short(data: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", data, run={"epochs": 1})
    train(config)
    path = tmp_path / "run" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"last\.ckpt must be a torch checkpoint, but is truncated or of another kind"):
        train(config, resume=True)


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from uip.train.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def run_with_space(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run in which no file can grow beyond `size` bytes, as on a disk that is full."""
    command = [sys.executable, "-c", FULL, str(size), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run(data: Path, tmp_path: Path) -> None:
    """The run stops with a message, and what was written before is whole."""
    for name in ("roomy", "tight"):
        values = small.config(tmp_path / name, data, run={"epochs": 1}).values()
        (tmp_path / f"{name}.toml").write_text(small.toml(values))
    assert main([str(tmp_path / "roomy.toml")]) == 0
    best, last = ((tmp_path / "roomy" / name).stat().st_size for name in ("best.ckpt", "last.ckpt"))
    result = run_with_space((best + last) // 2, str(tmp_path / "tight.toml"))
    assert result.returncode == 1, result.stderr
    assert "tight cannot be written" in result.stderr
    assert "free disk space and continue with --resume: earlier checkpoints are intact" in result.stderr
    load_model(tmp_path / "tight" / "best.ckpt")
    assert not (tmp_path / "tight" / "last.ckpt").exists()
    assert not list((tmp_path / "tight").glob("*.tmp"))


def test_a_disk_that_is_full_before_the_graphs_are_there(data: Path, tmp_path: Path) -> None:
    config = small.config(tmp_path / "run", data, data={"cache": str(tmp_path / "cache")})
    (tmp_path / "run.toml").write_text(small.toml(config.values()))
    result = run_with_space(1000, str(tmp_path / "run.toml"))
    assert result.returncode == 1, result.stderr
    assert "cache cannot be written" in result.stderr
    assert "free disk space, or choose another 'data.cache'" in result.stderr
    assert not list((tmp_path / "cache").glob("*/complete"))


DISAGREE = """
import os, sys
from uip.train.__main__ import main
mine = int(os.environ["RANK"])
for name in ("settings", "data"):
    main([f"{sys.argv[1]}/{name}{mine}.toml"])
"""


@pytest.mark.slow
def test_ranks_with_different_settings_or_data(data: Path, tmp_path: Path) -> None:
    other = small.write_frames(tmp_path / "other.xyz", 3)
    for rank, file in enumerate((data, other)):
        for name, config in (
            ("settings", small.config(tmp_path / "run", data, optim={"learning_rate": 1e-3 * (1 + rank)})),
            ("data", small.config(tmp_path / "run", file)),
        ):
            (tmp_path / f"{name}{rank}.toml").write_text(small.toml(config.values()))
    (tmp_path / "disagree.py").write_text(DISAGREE)
    errors = torchrun(2, str(tmp_path / "disagree.py"), str(tmp_path)).stderr
    assert errors.count("all ranks must have the same settings, but ranks [1] differ from rank 0") == 2, errors
    assert errors.count("all ranks must have the same data, but ranks [1] differ from rank 0") == 2, errors
