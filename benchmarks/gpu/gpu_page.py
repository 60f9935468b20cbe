"""The table of docs/benchmarks.md from the results of a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
HIDDEN = ("section", "case")


def table(results: dict[str, Any]) -> str:
    """Machine, rows, and what was left out."""
    machine = results["machine"]
    lines = [f"{machine['device']}, torch {machine['torch']}, {machine['date']}, `python benchmarks/gpu`.", ""]
    lines += ["| section | case | results |", "|---|---|---|"]
    for row in results["rows"]:
        found = ", ".join(f"{key} {value}" for key, value in row.items() if key not in HIDDEN)
        lines.append(f"| {row['section']} | {row['case']} | {found} |")
    if results["left_out"]:
        lines += ["", f"Not measured, for lack of time: {'; '.join(results['left_out'])}."]
    return "\n".join(lines)


def page(text: str, results: dict[str, Any]) -> str:
    """The page with the table between its two marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{PAGE.name} must contain the lines '{BEGIN}' and '{END}' once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}"


def write_page(output: Path) -> None:
    """Replace the table."""
    PAGE.write_text(page(PAGE.read_text(), json.loads(output.read_text())))
