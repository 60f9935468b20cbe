"""The messages on the page of frequent errors are those of the program."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(r"^### (.+)\n\n> (.+)\n\n(\S[^>#]*)", re.M)
SHORTEST = 8
"""Characters of a part of a message that is searched for."""


def python_literals(path: Path) -> str:
    """All strings of a file; an f-string keeps its constant parts, which are joined by "...": values are left out."""
    strings = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            strings.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    return "\n".join(strings)


def cpp_text(path: Path) -> str:
    """The file with neighbouring string literals joined."""
    return re.sub(r'"\s*\n\s*"', "", path.read_text())


@pytest.fixture(scope="module")
def sources() -> str:
    files = [path for name in ("uip", "lammps_plugin", "openmm_plugin") for path in sorted((ROOT / name).rglob("*"))]
    texts = [python_literals(path) for path in files if path.suffix == ".py"]
    return " ".join("\n".join(texts + [cpp_text(path) for path in files if path.suffix in (".cpp", ".h")]).split())


def entries() -> list[tuple[str, str, str]]:
    """Title, message and advice of each entry."""
    return ENTRY.findall((ROOT / "docs" / "faq.md").read_text())


@pytest.mark.parametrize(("title", "message"), [(title, message) for title, message, _ in entries()])
def test_message_is_in_the_sources(title: str, message: str, sources: str) -> None:
    parts = [part.strip(" '`") for part in message.split("...")]
    searched = [part for part in parts if len(part) >= SHORTEST]
    assert searched, f"{title}: the message has no part that can be searched for"
    assert [part for part in searched if part not in sources] == [], title


def test_every_section_is_an_entry() -> None:
    """None is left out by the pattern, and there are enough to be of use."""
    text = (ROOT / "docs" / "faq.md").read_text()
    assert len(entries()) == text.count("\n### ")
    assert len(entries()) >= 20
