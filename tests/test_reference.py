"""Pages of reference are those of the program: settings, commands, keywords of pair_style, tests that pages name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from uip.config import field_documentation
from uip.models.allscaip import AllScAIPConfig
from uip.models.chgnet import CHGNetConfig
from uip.train.config import TrainConfig
from uip.train.data_sets import SetConfig
from uip.train.template import EXAMPLE

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / ".ci"))
import reference_pages  # noqa: E402, from the folder just named

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_pages_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference_pages.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(ROOT / "docs" / "reference", folder)
    page = folder / "settings.md"
    page.write_text(page.read_text().replace("integer, default `16`", "integer, default `32`"))
    assert reference_pages.main(["--check"], folder) == 1
    message = "docs/reference/settings.md is not what the program says; run 'make reference'\n"
    assert capsys.readouterr().err == message
    assert reference_pages.main([], folder) == 0
    assert page.read_text() == (ROOT / "docs" / "reference" / "settings.md").read_text()


@pytest.mark.parametrize(
    "config",
    [
        *(type(getattr(EXAMPLE, table.name)) for table in dataclasses.fields(TrainConfig)),
        SetConfig,
        CHGNetConfig,
        AllScAIPConfig,
    ],
    ids=lambda config: config.__name__,
)
def test_every_setting_has_documentation(config: type) -> None:
    documentation = field_documentation(config)
    assert [field.name for field in dataclasses.fields(config) if not documentation.get(field.name)] == []


def test_keywords_of_pair_style_are_in_one_table() -> None:
    source = (ROOT / "lammps_plugin" / "pair_uip_settings.cpp").read_text()
    keywords = re.findall(r'if \(keyword == "(\w+)"\) \{', source)
    table = (ROOT / "docs" / "lammps.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    assert len(keywords) >= 10
    assert sorted(keywords) == sorted(re.findall(r"^\| `(\w+)` \|", table, re.M))


def test_page_of_lammps_commands_names_tests() -> None:
    page = (ROOT / "docs" / "lammps_commands.md").read_text()
    tests = set(re.findall(r"`(test_\w+)`", page))
    assert len(tests) >= 10
    assert [name for name in tests if not (ROOT / "tests" / "lammps" / f"{name}.py").exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_outputs(path: Path) -> None:
    """Run from the first cell to the last, without error or warning; no path of the machine is in them."""
    text = path.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not re.search(r'"[^"]*/(?:tmp|home|root|work)/', text)


@pytest.mark.slow
def test_a_notebook_runs(tmp_path: Path) -> None:
    """The cells of the cheapest one, as a script."""
    path = ROOT / "docs" / "notebooks" / "lammps_python.ipynb"
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = {**os.environ, "MPLBACKEND": "agg", "LD_LIBRARY_PATH": f"{sys.prefix}/lib", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    moments = re.search(r"moments of Ni: (\S+) \+-", result.stdout)
    assert moments
    assert 1.0 < float(moments[1]) < 2.0
