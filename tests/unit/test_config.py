"""Unknown keys and wrong types are errors with a suggestion."""

from __future__ import annotations

import pytest

from uip.config import from_dict, suggestion
from uip.models.chgnet import CHGNetConfig


def test_defaults_and_values() -> None:
    config = from_dict(CHGNetConfig, {"channels": 32, "cutoff": 5})
    assert config.channels == 32
    assert config.num_layers == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chanels": 32}, "unknown key 'model.chanels'; did you mean 'channels'?"),
        ({"zzz": 32}, "unknown key 'model.zzz'; known: bond_cutoff, channels"),
        ({"channels": "many"}, "'model.channels' must be int, got 'many'"),
        ({"channels": True}, "'model.channels' must be int, got True"),
        ({"norm": 1}, "'model.norm' must be bool, got 1"),
    ],
)
def test_mistakes(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        from_dict(CHGNetConfig, values, "model")


def test_suggestion_lists_what_is_known() -> None:
    assert suggestion("q", ["beta", "alpha"]) == "; known: alpha, beta"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_angular": 6}, "`num_angular` must be odd"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, got 0"),
        ({"channels": 0}, "`channels` must be at least 1, got 0"),
        ({"num_radial": -1}, "`num_radial` must be at least 1, got -1"),
    ],
)
def test_an_architecture_that_is_none(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CHGNetConfig(**changes)
