"""Training configs: paths, and keys that were renamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import small

from uip.train.config import make_config, read_config
from uip.train.loop import train
from uip.train.setup import initial_model
from uip.train.state import initial_state, resume_from, save_state

OLD = (("model", "start", "init_from", "chgnet-0.3.0"), ("model", "move", "trainable", ["readout.*"]))
OLD += (("data", "rotate", "augment", True),)


@pytest.mark.parametrize(("table", "old", "new", "value"), OLD, ids=[f"{table}.{old}" for table, old, _, _ in OLD])
def test_an_old_key_is_read_with_a_warning(table: str, old: str, new: str, value: object, tmp_path: Path) -> None:
    def values(key: str) -> dict[str, dict[str, object]]:
        tables: dict[str, dict[str, object]] = {"data": {"train": "a.xyz"}}
        tables.setdefault(table, {})[key] = value
        return tables

    (tmp_path / "run.toml").write_text(small.toml(values(old)))
    with pytest.warns(FutureWarning, match=rf"'{table}\.{old}' is now named '{table}\.{new}'"):
        config = read_config(tmp_path / "run.toml")
    assert config == make_config(values(new), tmp_path)
    both = values(old)
    both[table][new] = value
    with pytest.raises(ValueError, match=rf"'{table}\.{new}' is set twice.*remove '{table}\.{old}'"):
        make_config(both)


def test_the_cache_lies_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache in the working directory, where earlier versions put it, is still found."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.toml").write_text(small.toml({"data": {"train": "a.xyz", "cache": "graphs"}}))
    monkeypatch.chdir(tmp_path)
    assert read_config(Path("runs/run.toml")).data.cache == "runs/graphs"
    (tmp_path / "graphs").mkdir()
    with pytest.warns(
        FutureWarning, match=rf"'data\.cache' is now relative .*runs/graphs; the cache {tmp_path}/graphs"
    ):
        assert read_config(Path("runs/run.toml")).data.cache == "graphs"
    (tmp_path / "runs" / "graphs").mkdir()
    assert read_config(Path("runs/run.toml")).data.cache == "runs/graphs"


def test_a_checkpoint_with_old_keys_resumes(tmp_path: Path) -> None:
    file = small.write_frames(tmp_path / "data.xyz", 4)
    config = small.config(tmp_path / "run", file, run={"epochs": 1})
    train(config)
    state = initial_state(config, initial_model(config).double())
    values = config.values()
    values["model"]["start"] = values["model"].pop("init_from")
    values["data"]["rotate"] = values["data"].pop("augment")

    class OldConfig:
        @staticmethod
        def values() -> dict[str, object]:
            return values

    save_state(state, OldConfig, tmp_path / "old.ckpt")  # type: ignore[arg-type]
    resume_from(state, config, tmp_path / "old.ckpt")
