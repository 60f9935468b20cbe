"""AllScAIP goes through the same loader and the same loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch

from uip.checkpoint import load_model
from uip.data.dataset import Dataset, GraphSettings, labelled_structures, make_sample, open_store
from uip.models.allscaip import AllScAIPConfig
from uip.ops.soft_rank import SoftNearest
from uip.train.config import read_config
from uip.train.loop import train
from uip.train.metrics import read_log

EXAMPLES = Path(__file__).parents[2] / "examples"

SHAPE = {"num_elements": 30, "channels": 16, "num_layers": 2, "num_heads": 2, "num_radial": 8}
ARCHITECTURE = {**SHAPE, "k": 6.0, "nearest": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_frames(tmp_path_factory.mktemp("data") / "four.xyz", 4)


def test_its_graphs_are_cached_whole(data: Path) -> None:
    settings = GraphSettings(6.8, None, SoftNearest(k=6.0, nearest=12), tuple(range(1, 31)))
    stored = Dataset([open_store(data, settings, data.parent / "cache")])
    for k, (_, structure, labels) in enumerate(labelled_structures(data)):
        built = make_sample(structure, labels, settings).graph.tensors()
        again = stored[k].graph.tensors()
        assert built.keys() == again.keys()
        assert {"nearest_edges", "bond_slots"} <= built.keys()
        for name, value in built.items():
            torch.testing.assert_close(again[name], value, rtol=0.0, atol=1e-13)
    assert stored.batch([0, 1, 2]).graph.bond_slots is not None


def test_it_learns(data: Path, tmp_path: Path) -> None:
    model = {"kind": "allscaip", "architecture": ARCHITECTURE}
    optim = {"learning_rate": 3e-2, "ema": 0.0}
    train(small.config(tmp_path / "run", data, model=model, run={"epochs": 15}, optim=optim))
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "validation"]
    assert lines[-1]["loss"] < 0.97 * lines[0]["loss"], [line["loss"] for line in lines]
    kept = load_model(tmp_path / "run" / "best.ckpt")
    assert kept.name == "allscaip"
    assert isinstance(kept.config, AllScAIPConfig)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_configs_can_be_read(path: Path) -> None:
    config = read_config(path)
    assert config.data.train
