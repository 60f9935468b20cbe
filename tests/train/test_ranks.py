"""Several ranks: the same run as one rank, to rounding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small
import torch

from uip.checkpoint import load_model
from uip.data.sampler import assign_to_ranks, epoch_batches, imbalance
from uip.train.__main__ import main
from uip.train.metrics import read_log


def torchrun(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_two_ranks_are_one_after_twenty_steps(tmp_path: Path) -> None:
    """Batches of at most 2 of 7 structures with very different sizes: in each epoch a rank gets none once."""
    data = small.write_frames(tmp_path / "seven.xyz", 7)
    run = {"epochs": 5, "max_jump": 0.0}
    for name in ("one", "two"):
        config = small.config(tmp_path / name, data, data={"batch_size": 2, "augment": True}, run=run)
        (tmp_path / f"{name}.toml").write_text(small.toml(config.values()))
    assert main([str(tmp_path / "one.toml")]) == 0
    result = torchrun(2, "-m", "uip.train", str(tmp_path / "two.toml"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best potential") == 1
    one, two = (load_model(tmp_path / name / "last.ckpt", dtype="float64").state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8, msg=name)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    assert logs[0][-1]["step"] >= 20
    for line, other in zip(*logs, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert line["forces"] == pytest.approx(other["forces"], rel=1e-6)


TOGETHER = """
import torch
from torch import nn
from uip.train.distributed import Ranks
from uip.train.gradient_sum import GradientSum

ranks = Ranks.join("cpu")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
parameters = [*model.parameters(), unused]
inputs = torch.randn(5, 4, dtype=torch.float64)
alone = torch.autograd.grad(model(inputs).sum(), list(model.parameters()))
gradients, early = GradientSum(parameters, ranks, bucket=30), []
# in the second step rank 1 has nothing, in the third rank 0
for mine in ((inputs[:2], inputs[2:])[ranks.rank], (inputs, None)[ranks.rank], (None, inputs)[ranks.rank]):
    for parameter in parameters:
        parameter.grad = None
    parts = () if mine is None else mine.split(1)
    for number, part in enumerate(parts):
        with gradients.overlap(last=number == len(parts) - 1):
            model(part).sum().backward()
            early.append(gradients.next)
    gradients.finish()
    for parameter, wanted in zip(parameters, alone):
        torch.testing.assert_close(parameter.grad, wanted)
    assert not unused.grad.any()
# the unused parameter is the last: its bucket, the first, cannot be sent early, so that nothing is
assert max(early) == 0, early
gradients, early = GradientSum(parameters[:-1], ranks, bucket=8), []
for parameter in parameters:
    parameter.grad = None
for number in range(2):
    with gradients.overlap(last=number == 1):
        model(inputs[2 * ranks.rank + number][None]).sum().backward()
        early.append(gradients.next)
gradients.finish()
assert early == [0, len(gradients.buckets)] and len(gradients.buckets) > 2, early
print("sums agree", flush=True)
ranks.check_same("config", "same")
print("agreed", flush=True)
try:
    ranks.check_same("config", f"rank {ranks.rank}")
except RuntimeError as error:
    print(error, flush=True)
ranks.leave()
"""


@pytest.mark.slow
def test_gradients_are_summed_and_ranks_that_disagree_stop(tmp_path: Path) -> None:
    """Sums over ranks equal the gradient of one rank, also where a rank has no structures or a parameter no gradient;
    all but the first backward pass of a step sends its buckets before it ends."""
    (tmp_path / "together.py").write_text(TOGETHER)
    result = torchrun(2, str(tmp_path / "together.py"))
    output = result.stdout
    assert output.count("sums agree") == 2, result.stderr
    assert output.count("agreed") == 2
    assert output.count("all ranks must have the same config, but ranks [1] differ from rank 0") == 2


@pytest.mark.slow
def test_a_killed_rank_ends_the_run(tmp_path: Path) -> None:
    """All processes end within a minute, and those that lost it say so."""
    data = small.write_frames(tmp_path / "four.xyz", 4)
    run = {"epochs": 400, "max_jump": 0.0, "checkpoint_steps": 3}
    path = tmp_path / "killed.toml"
    path.write_text(small.toml(small.config(tmp_path / "killed", data, run=run).values()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "uip.train"]
    with subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "killed" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        messages = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "lost the connection to another rank, which ended first" in messages
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert not list((tmp_path / "killed").glob("error*.log"))


def test_modelled_imbalance_of_many_ranks() -> None:
    """Costs as uneven as those of real crystals (coefficient of variation 1.17), on 32 ranks."""
    rng = np.random.default_rng(0)
    costs = rng.lognormal(0.0, np.sqrt(np.log(1 + 1.17**2)), 20_000)
    for per_rank, limit in ((4, 0.15), (16, 0.02), (64, 0.02)):
        batches = epoch_batches(costs, 32 * per_rank, seed=1, epoch=0, num_shards=32)
        assert sorted(np.concatenate(batches)) == list(range(costs.size))
        loads = np.array(
            [[costs[batch][shard].sum() for shard in assign_to_ranks(costs[batch], 32)] for batch in batches]
        )
        assert loads.max(axis=1).sum() / loads.mean(axis=1).sum() - 1.0 <= limit, per_rank


def test_batches_follow_from_their_arguments_alone() -> None:
    costs = np.random.default_rng(0).lognormal(0.0, 1.0, 300)
    one, two = (epoch_batches(costs, 32, seed=5, epoch=2, num_shards=8) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], epoch_batches(costs, 32, seed=5, epoch=3, num_shards=8)[0])
    plain = epoch_batches(costs, 32, seed=5, epoch=2)
    assert [len(batch) for batch in plain] == [30] * 10
    assert imbalance(np.array([1.0, 2.0, 3.0]), [np.array([0, 1]), np.array([2])]) == 0.0
    assert imbalance(np.array([1.0, 2.0, 3.0]), [np.array([0]), np.array([1, 2])]) == pytest.approx(2 / 3)
