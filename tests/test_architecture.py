"""Imports flow downward only; generated files are fresh; C++ sources stand alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up; a module imports its own row and the rows before it.
LAYERS = (
    ("schema", "units", "config", "plugins"),
    ("ops",),
    ("graph", "parallel", "nn"),
    ("models", "data"),
    ("importers",),
    ("checkpoint",),
    ("program",),
    ("inference",),
    ("calculator", "openmm"),
    ("relax",),
    ("train",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def part(path: Path) -> str:
    return path.relative_to(ROOT / "uip").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
            if node.module == "uip":
                names = [f"uip.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("uip.")}
    return parts


FILES = [path for path in sorted((ROOT / "uip").rglob("*.py")) if path != ROOT / "uip" / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_downward(path: Path) -> None:
    assert part(path) in RANK, f"give uip/{part(path)} a place in LAYERS"
    above = {name for name in imported(path) if RANK[name] > RANK[part(path)]}
    assert not above, f"{path.name} must not import {sorted(above)}"


@pytest.mark.parametrize("path", sorted((ROOT / "uip" / "models").glob("*.py")), ids=lambda path: path.name)
def test_models_take_tensors(path: Path) -> None:
    modules = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom | ast.Import)
    }
    assert not modules & {"ase", "pymatgen", "chgnet", "numpy"}


def test_generated_files_are_fresh() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "uip.schema", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_stale_file_is_noticed(tmp_path: Path) -> None:
    from uip.schema import generated_files

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "conventions.md").write_text("no markers")
    with pytest.raises(ValueError, match="must contain the lines"):
        generated_files(tmp_path)


def test_import_is_light() -> None:
    code = "import sys, uip; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SOURCES = [path for folder in ("uip/csrc", "lammps_plugin", "openmm_plugin") for path in (ROOT / folder).glob("*.cpp")]
USING = re.compile(r"^using [\w:]+::(\w+);", re.M)
DECLARED = re.compile(r"^(?:class|struct|using) (?:UIP_EXPORT )?(\w+)", re.M)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_take_nothing_from_each_other(path: Path) -> None:
    """Sources of a topic are compiled as one file. Each still has its own `using` for names that others shorten, and
    undefines its macros."""
    text = re.sub(r'//.*|#include.*|"(?:\\.|[^"\\])*"', "", path.read_text())
    shortened = {name for other in path.parent.glob("*.cpp") for name in USING.findall(other.read_text())}
    headers = "".join(header.read_text() for header in path.parent.glob("*.h"))
    foreign = shortened - set(USING.findall(text)) - set(DECLARED.findall(headers))
    assert [name for name in sorted(foreign) if re.search(rf"(?<![\w:]){name}\b", text)] == []
    if "_kernels_" not in path.name:  # kernels are compiled alone
        assert set(re.findall(r"#define (\w+)", text)) == set(re.findall(r"#undef (\w+)", text))
