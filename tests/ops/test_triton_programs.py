"""Kernels in programs for GPUs, as far as no GPU allows: every op is traced, every kernel compiled."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.9.0")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "triton_resources.py"
OPS = {
    *("segment_sum", "segment_gather", "gated_message", "gated_message_backward", "gated_message_second"),
    *("attend_rows", "attend_rows_backward", "attend_rows_second"),
    *("attend", "attend_backward", "attend_second"),
}


def run(*command: str | Path) -> str:
    """The output of a Python program that uses no interpreter of triton."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def resources() -> ModuleType:
    """The script that writes the table, whose folder stays out of `sys.path`."""
    spec = importlib.util.spec_from_file_location("triton_resources", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
def test_programs_hold_ops_and_compilers_get_kernels() -> None:
    names, kernels = run("tests/ops/triton_programs.py").splitlines()
    assert set(names.split()) == {f"uip_triton.{name}.default" for name in OPS}
    assert kernels == "13"


def rows_of(file: Path) -> dict[tuple[str, str, str], dict[str, int]]:
    results = json.loads(file.read_text())
    return {(row.pop("kernel"), row.pop("dtype"), row.pop("arch")): row for row in results["rows"]}


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "kernel"), [(80, "gated message"), (100, "segment sum, unsorted")])
def test_kernels_compile_without_a_gpu(arch: int, kernel: str, tmp_path: Path) -> None:
    """Two of them; all take minutes."""
    file = tmp_path / "resources.json"
    run(SCRIPT, "--arch", str(arch), "--type", "float32", "--only", kernel, "--out", file)
    ((key, row),) = rows_of(file).items()
    assert rows_of(resources().RESULTS)[key] == row, "run benchmarks/triton_resources.py, then with --document"


def test_the_table_is_complete_and_in_the_documentation() -> None:
    script = resources()
    keys = {(name, "float32", f"sm_{arch}") for name in script.KERNELS for arch in (80, 90, 100)}
    assert rows_of(script.RESULTS).keys() == keys
    for (name, _, arch), row in rows_of(script.RESULTS).items():
        assert row["shared"] <= script.SHARED[arch], f"{name} does not fit on {arch}"
    text = script.DOCUMENT.read_text()
    assert script.document(json.loads(script.RESULTS.read_text())) == text, "run it with --document"
