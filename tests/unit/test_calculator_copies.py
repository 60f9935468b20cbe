"""Copies of the calculator: pickle, deepcopy, JSON, threads, spawned and forked processes."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import systems
from ase import Atoms
from conftest import random_chgnet
from export_files import COMPILED, exported

from uip import Calculator
from uip.checkpoint import save_checkpoint

pytestmark = COMPILED
SOURCES = ["name", "checkpoint", ".pt", ".pt2", "model"]


def calculator(kind: str, folder: Path) -> Calculator:
    if kind == "checkpoint":
        save_checkpoint(random_chgnet(), folder / "model.ckpt")
        return Calculator(folder / "model.ckpt", dtype="float64", skin=0.3)
    if kind == "model":
        return Calculator(random_chgnet(), skin=0.3)
    if kind == "name":
        return Calculator("chgnet-0.3.0", dtype="float64", skin=0.3)
    return Calculator(exported("random", kind), skin=0.3)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"]
)
def test_copies(kind: str, duplicate: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = systems.nio()
    atoms.calc = calculator(kind, tmp_path)
    energy = atoms.get_potential_energy()
    monkeypatch.chdir(tmp_path.parent)
    twin = duplicate(atoms.calc)
    assert twin.parameters == atoms.calc.parameters
    assert twin.results["energy"] == energy
    moved = atoms.copy()
    moved.rattle(0.1, seed=1)
    moved.calc = twin
    assert moved.get_potential_energy() != energy
    assert atoms.get_potential_energy() == energy
    fresh = moved.copy()
    fresh.calc = calculator(kind, tmp_path)
    assert moved.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-9)


def test_a_relative_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(random_chgnet(), tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Calculator("model.ckpt"))
    monkeypatch.chdir(tmp_path.parent)
    assert pickle.loads(data).parameters["model"] == str(tmp_path / "model.ckpt")


def test_json(tmp_path: Path) -> None:
    first = calculator("checkpoint", tmp_path)
    values = json.loads(json.dumps(first.as_dict()))
    assert (values["@module"], values["@class"]) == ("uip.calculator", "Calculator")
    assert Calculator.from_dict(values).parameters == first.parameters
    with pytest.raises(ValueError, match=r"got one of a model in memory; write the model with"):
        calculator("model", tmp_path).as_dict()


def frames() -> list[Atoms]:
    made = []
    for seed in range(24):
        atoms = systems.nio() if seed % 2 else systems.water()
        atoms.rattle(0.02, seed=seed)
        made.append(atoms)
    return made


def energy(task: tuple[Calculator, Atoms]) -> float:
    shared, atoms = task
    atoms.calc = shared
    return float(atoms.get_potential_energy())


def test_threads_share_one_calculator() -> None:
    shared = Calculator(random_chgnet())
    expected = [energy((shared, atoms)) for atoms in frames()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(energy, [(shared, atoms) for atoms in frames()]))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.slow
def test_spawned_processes() -> None:
    shared = Calculator(random_chgnet())
    expected = [energy((shared, atoms)) for atoms in frames()[:3]]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(energy, [(shared, atoms) for atoms in frames()[:3]]))
    np.testing.assert_allclose(found, expected, atol=1e-9)


FORK = """
import os, sys, warnings
import torch
sys.path.insert(0, sys.argv[1])
import systems
from uip import Calculator
torch.set_num_threads(2)
atoms = systems.nio().repeat(2)
atoms.calc = Calculator("chgnet-0.3.0")
atoms.get_potential_energy()
child = os.fork()
if child == 0:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        atoms.rattle(0.01)
        atoms.get_potential_energy()
    assert "evaluates with one thread" in str(caught[0].message), caught
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run(
        [sys.executable, "-c", FORK, str(Path(systems.__file__).parent)], env=environment, check=True, timeout=60
    )
