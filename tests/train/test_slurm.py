"""`srun python -m uip.train`: the tasks of a SLURM step are the ranks of one run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small

from uip.train.metrics import read_log
from uip.train.slurm import first_host, slurm_ranks

STEP = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
}


def test_a_step_is_read() -> None:
    found = slurm_ranks(STEP)
    assert found == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu003",
        "MASTER_PORT": found["MASTER_PORT"],
    }
    assert 20_000 <= int(found["MASTER_PORT"]) < 30_000
    assert found["MASTER_PORT"] == slurm_ranks({**STEP, "SLURM_PROCID": "0"})["MASTER_PORT"]
    assert found["MASTER_PORT"] != slurm_ranks({**STEP, "SLURM_STEP_ID": "3"})["MASTER_PORT"]
    assert slurm_ranks({**STEP, "MASTER_ADDR": "head"})["MASTER_ADDR"] == "head"
    for gpus, rank in (("3", "0"), ("0,1,2,3", "1")):
        assert slurm_ranks({**STEP, "CUDA_VISIBLE_DEVICES": gpus})["LOCAL_RANK"] == rank


def test_one_process_is_one_rank() -> None:
    """In the script of a job, in a step of one task, and where torchrun has set its variables."""
    assert slurm_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == {}
    assert slurm_ranks({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert slurm_ranks({**STEP, "RANK": "0"}) == {}


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("localhost", "localhost"),
        ("a1,b2", "a1"),
        ("gpu[003-007,9],gpu12", "gpu003"),
        ("rack[1,3]-n[07-08],x", "rack1-n07"),
        ("n[2]-ib", "n2-ib"),
    ],
)
def test_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_a_step_that_lacks_variables() -> None:
    message = "a SLURM step of 8 tasks must have SLURM_LOCALID, SLURM_STEP_NODELIST; start the run with torchrun"
    with pytest.raises(ValueError, match=message):
        slurm_ranks({**STEP, "SLURM_LOCALID": "", "SLURM_STEP_NODELIST": ""})


@pytest.mark.slow  # two processes that import torch and train
def test_two_tasks_train_one_model(tmp_path: Path) -> None:
    file = small.write_frames(tmp_path / "data.xyz", 4)
    config = small.config(tmp_path / "run", file, run={"epochs": 2})
    (tmp_path / "run.toml").write_text(small.toml(config.values()))
    command = [sys.executable, "-m", "uip.train", str(tmp_path / "run.toml")]
    step = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    environments = [{**os.environ, **step, "SLURM_PROCID": task, "SLURM_LOCALID": task} for task in "01"]
    tasks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for environment in environments
    ]
    texts = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], texts
    assert ["best potential" in text for text in texts] == [True, False]
    assert [line["kind"] for line in read_log(tmp_path / "run" / "log.jsonl")] == ["train", "validation"] * 2
