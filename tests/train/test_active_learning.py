"""examples/active_learning: the loop closes, and its figure is drawn from results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "active_learning"


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(EXAMPLE / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.long
@pytest.mark.slow
def test_the_loop(tmp_path: Path) -> None:
    """Two rounds of a few steps: both ways have the same labels at first, and label the same number."""
    run("loop.py", "--folder", tmp_path, "--rounds", 2, "--labels", 3, "--steps", 6)
    results = json.loads((tmp_path / "results.json").read_text())
    for way in ("committee", "random"):
        assert [point["labels"] for point in results[way]] == [3, 6]
        assert np.isfinite([point[name] for point in results[way] for name in ("forces", "energy")]).all()
        assert (tmp_path / way / "round_1" / "run" / "seed_2" / "best.ckpt").is_file()
    assert results["committee"][0] == results["random"][0]
    assert results["committee"][1] != results["random"][1]


def test_the_figure(tmp_path: Path) -> None:
    """Of several runs in one list, as in docs/figures, and of separate files."""
    results = [
        {
            "seed": seed,
            **{
                way: [{"labels": 8 * k, "forces": 0.5 / k, "energy": 20.0 / k} for k in (1, 2)]
                for way in ("committee", "random")
            },
        }
        for seed in range(2)
    ]
    (tmp_path / "list.json").write_text(json.dumps(results))
    (tmp_path / "one.json").write_text(json.dumps(results[0]))
    run("figure.py", tmp_path / "list.json", tmp_path / "one.json", "-o", tmp_path / "errors.png")
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
