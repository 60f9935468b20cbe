"""docs/benchmarks.md is what the results of benchmarks/chgnet_suite give, and the suite runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ase.io
import pytest
from ase.build import bulk
from conftest import SMALL
from export_files import exported

from uip.graph.ase_io import structure_from_atoms
from uip.graph.neighbors import build_graph

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "benchmarks" / "chgnet_suite"
ONE_RUN = pytest.mark.xdist_group("chgnet_suite")


def module(name: str, folder: Path = SUITE) -> ModuleType:
    """A file of a benchmark, whose folder stays out of `sys.path`."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look there
    spec.loader.exec_module(found)
    return found


document = module("document")
gpu_page = module("gpu_page", ROOT / "benchmarks" / "gpu")
relaxations = module("relax", ROOT / "benchmarks")


def test_the_page_is_what_the_results_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert document.main(["--check"]) == 0, capsys.readouterr().err


def test_the_table_of_relaxations_is_that_of_the_results() -> None:
    text, results = relaxations.PAGE.read_text(), json.loads(relaxations.RESULTS.read_text())
    assert relaxations.page(text, results) == text
    results["structures"][0]["uip"]["seconds"] *= 100.0
    assert relaxations.page(text, results) != text


@pytest.mark.slow
def test_relaxations_without_a_peer(tmp_path: Path) -> None:
    """Three structures of which one is too large; each is relaxed."""
    frames = [bulk("Si", a=5.5), bulk("NiO", "rocksalt", a=4.2), bulk("Si", a=5.5).repeat(2)]
    ase.io.write(tmp_path / "data.xyz", frames)
    words = ("--data", tmp_path / "data.xyz", "--max-atoms", 4, "--peer-count", 0, "--fmax", 0.2)
    command = [sys.executable, ROOT / "benchmarks" / "relax.py", *words, "--output", tmp_path / "results.json"]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["structures"]
    assert sorted(row["formula"] for row in rows) == ["NiO", "Si2"]
    assert all(row["uip"]["converged"] and row["uip"]["seconds"] > 0.0 for row in rows)
    assert "| uip | 2 | 2 |" in run.stdout


def test_other_results_make_the_page_stale() -> None:
    text, results = document.PAGE.read_text(), json.loads(document.RESULTS.read_text())
    results["step"][0]["cpu_ms"] = [10 * value for value in results["step"][0]["cpu_ms"]]
    assert document.page(text, results) != text


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="must contain the lines"):
        document.page("no markers", {})


def test_ratios_are_of_bests_and_of_rounds() -> None:
    a, b = {"cpu_ms": [8.0, 9.0, 40.0]}, {"cpu_ms": [2.0, 3.0, 4.0]}
    assert document.ratio(a, b, "cpu_ms") == "4.00x, 4.00x"  # 8 / 2; of 4, 3, 10
    numbers = [document.number(value) for value in (1234.6, 123.4, 12.34, 1.234, 0.5)]
    assert numbers == ["1235", "123", "12.3", "1.23", "0.50"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--before", "old.pt2"], "must be given together"),
        (["--before", "old.pt2", "--before-path", "docs"], "must hold uip/lib/libuip.so"),
    ],
)
def test_an_older_program_needs_its_library(arguments: list[str], message: str) -> None:
    run = subprocess.run([sys.executable, SUITE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert message in run.stderr


def test_a_peer_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chgnet.py").write_text("raise ImportError('no pymatgen')")
    monkeypatch.syspath_prepend(SUITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    turns = module("turns")
    with turns.Worker(turns.Way("peer", ("chgnet",))) as worker, pytest.raises(RuntimeError, match="make bench-env"):
        worker.wait()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of a tiny run with a small random model, without the peer, whose dependencies are not installed here."""
    path = tmp_path_factory.mktemp("suite") / "results.json"
    program = exported("random", ".pt", "float32")
    command = [sys.executable, SUITE, "--quick", "--peer", "none", "--pt", program, "--output", path]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = json.loads(path.read_text())
    assert document.summary(results) in run.stdout
    return results


@pytest.mark.slow
@ONE_RUN
def test_the_suite_runs(quick: dict[str, Any]) -> None:
    ways = {(row["way"], row["threads"]) for row in quick["step"]}
    assert {("eager", 1), (".pt", 1)} <= ways
    assert all(min(row["wall_ms"] + row["cpu_ms"]) > 0.0 for row in quick["step"] + quick["lammps"])
    assert all(row["program_ms"][0] < row["wall_ms"][0] for row in quick["lammps"])
    assert all(row["step_mb"] > 100.0 for row in quick["memory"])
    assert "/" not in quick["command"].replace("benchmarks/chgnet_suite", "")


@pytest.mark.slow
@ONE_RUN
def test_operations_are_those_of_the_messages(quick: dict[str, Any]) -> None:
    """Of 8 atoms of MgO and the small model: 3 layers of edges, 2 of bonds, the first of these with tables."""
    atoms = module("structures").structure("MgO 8")
    graph = build_graph(structure_from_atoms(atoms), SMALL.cutoff, SMALL.bond_cutoff)
    edges, angles = graph.num_edges, graph.num_angles
    squares = {  # forward, gradient: the second layer is kept, there are few messages
        "edges, tables": (3 * 2 * edges, 3 * 2 * edges),
        "bonds, tables": (2 * angles, 2 * angles),
        "bonds": (4 * angles, 6 * angles),
        "angles, tables": (0, 0),
    }
    found = {(row["kind"], row["direction"]): row for row in quick["fused_ops"]}
    for kind, counts in squares.items():
        for direction, count in zip(("forward", "gradient"), counts, strict=True):
            assert found[kind, direction]["gflop"] == pytest.approx(2e-9 * count * SMALL.channels**2, rel=1e-3)
            assert found[kind, direction]["ms"] > 0.0
    total = sum(row["gflop"] for (kind, _), row in found.items() if kind not in ("all", "gemm"))
    assert found["all", "both"]["gflop"] == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
def test_engine_overhead() -> None:
    """64 atoms: the four runs of LAMMPS behind a row of the table."""
    command = [sys.executable, str(ROOT / "benchmarks" / "engine_overhead.py"), "--cells", "2", "--threads", "1"]
    run = subprocess.run([*command, "--steps", "2", "--repeats", "2"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Si, 64 atoms" in run.stdout
    numbers = next(line for line in run.stdout.splitlines() if line.startswith("│ 1 ")).strip("│").split("│")
    step, new_list, lammps = map(float, numbers[1:])
    assert step > 0
    assert new_list + lammps > 0


@pytest.mark.long
@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    """Every section, with tiny systems; numbers of ops and models are right."""
    command = [sys.executable, ROOT / "benchmarks" / "gpu", "--dry-run", "--output", tmp_path / "gpu.json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["section"] for row in results["rows"]} == {"ops", "models", "times", "ase", "train", "lammps"}
    assert sum(row.get("right", False) for row in results["rows"]) == 9
    assert not results["left_out"]
    page = gpu_page.page((ROOT / "docs" / "benchmarks.md").read_text(), results)
    assert "| lammps | chgnet, Si 64 |" in page
    assert gpu_page.page(page, results) == page


@pytest.mark.slow
def test_loader() -> None:
    """300 structures, of which 200 are repeated."""
    command = [sys.executable, str(ROOT / "benchmarks" / "loader.py"), "--structures", "300", "--counted", "100"]
    run = subprocess.run([*command, "--batches", "3"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    results = {line.split("│")[2].strip(): line.split("│")[3] for line in run.stdout.splitlines() if "│ 300" in line}
    assert {"build, 2 processes", "load, 2 processes", "first step of a run", "memory before it"} <= results.keys()
    assert all(float(results[name].split("/ s")[0]) > 0 for name in results if name.startswith(("build", "load")))
    assert 500 < float(results["bytes on disk"].split(",")[1].split()[0]) < 5000
