"""The test suite itself."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("grouping")
def test_groups_share_a_worker(request: pytest.FixtureRequest) -> None:
    """pytest-xdist 3.8 with pytest 9.2 ignores groups silently: each worker then repeats the runs behind them."""
    in_worker = hasattr(request.config, "workerinput")
    assert request.node.nodeid.endswith("@grouping") == in_worker
