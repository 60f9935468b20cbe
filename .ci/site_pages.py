"""Hooks of mkdocs: pages from files beside docs/, and links to files that are not on the site.

README.md is the first page. Its links to docs/ lose that folder; links to sources, as ../examples, become text.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root folder."""
    for name, source in PAGES.items():
        text = LINK.sub(lambda link: link[0].replace("](docs/", "]("), (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace links to source files by their text."""
    place = Path(page.file.src_uri).parent
    folder = (ROOT if page.file.src_uri in PAGES else ROOT / "docs") / place

    def reachable(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        on_site = not target or "://" in target or files.get_file_from_path(normpath(place / target)) is not None
        return text if not on_site and (folder / target).exists() else link[0]

    return LINK.sub(reachable, markdown)
