"""Learning curves: drawn from what was logged, without reading the log again, in a memory that has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from uip.train import curves, metrics
from uip.train.metrics import Log


def line(step: int, kind: str = "train") -> dict:
    return {"step": step, "kind": kind, "seconds": 3600.0 * step, "loss": float(step), "stress": None}


def test_the_log_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lines = Log(tmp_path)
    for step in range(3):
        with_lines.write(line(step))
    with_lines.file.close()
    again = Log(tmp_path, keep=2)
    monkeypatch.setattr(metrics, "read_log", None)
    again.write(line(5, "validation"))
    again.draw(every=0.0)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert again.curves.curves["loss", "train"].points == [(0.0, 0.0), (1.0, 1.0)]
    assert again.curves.curves["loss", "validation"].points == [(5.0, 5.0)]
    assert again.curves.curves["stress", "train"].points == []
    again.file.close()


def test_long_curves_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "LIMIT", 10)
    found = curves.Curves()
    for step in range(1000):
        found.add(line(step))
    curve = found.curves["loss", "train"]
    assert 10 <= len(curve.points) < 20
    assert curve.points[0] == ((curve.width - 1) / 2, (curve.width - 1) / 2)
    assert len(curve.points) * curve.width + len(curve.rest) == 1000
