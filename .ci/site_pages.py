"""Hooks of mkdocs: pages from files beside docs/, notebooks as pages, and links to files that are not on the site.

README.md is the first page. Its links to docs/ lose that folder; links to sources, as ../examples, become text. A
notebook becomes a page of text, code and its stored outputs; it is not run.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root folder, and those of notebooks with their pictures."""
    for name, source in PAGES.items():
        text = LINK.sub(lambda link: link[0].replace("](docs/", "]("), (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, name, content=text))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        for name, content in notebook_files(notebook).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def notebook_files(path: Path) -> dict[str, str | bytes]:
    """The page of a notebook, NAME.md, and its pictures, in NAME/."""
    text, resources = MarkdownExporter().from_filename(
        str(path), {"unique_key": "figure", "output_files_dir": path.stem}
    )
    download = f"[The notebook]({path.name}), to run it yourself.\n"
    return {f"{path.stem}.md": f"{text}\n\n{download}", **resources["outputs"]}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to notebooks lead to their pages, and links to sources become text; a page is named by its title."""
    place = Path(page.file.src_uri).parent
    folder = (ROOT if page.file.src_uri in PAGES else ROOT / "docs") / place

    def reachable(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        if target.endswith(".ipynb") and place.name != "notebooks":
            return link[0].replace(".ipynb)", ".md)")
        file = files.get_file_from_path(normpath(place / target))
        if not target or "://" in target or file is not None:
            return f"[{title(file)}]({link[2]})" if file is not None and text.endswith(".md") else link[0]
        return text if (folder / target).exists() else link[0]

    return LINK.sub(reachable, markdown)


def title(file: File) -> str:
    """The first heading of a page."""
    return file.content_string.partition("# ")[2].partition("\n")[0]
