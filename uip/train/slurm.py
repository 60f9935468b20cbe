"""SLURM steps of several tasks, `srun python -m uip.train run.toml`, as ranks: torchrun's variables from SLURM's."""

from __future__ import annotations

import re
from collections.abc import Mapping

TASKS = "SLURM_STEP_NUM_TASKS"
"""Set by srun in each task, and not in the script of a job, which is one process."""

NEEDED = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")


def slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that torchrun would set; empty outside of a SLURM step of several tasks, or within torchrun.

    The first host of the step is the meeting point, at a port that follows from the numbers of job and step.

    Raises:
        ValueError: a step of several tasks without its other variables.
    """
    if "RANK" in environment or int(environment.get(TASKS, "1")) < 2:
        return {}
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise ValueError(
            f"a SLURM step of {environment[TASKS]} tasks must have {', '.join(missing)}; start the run with "
            "torchrun, or with one task"
        )
    # a task that sees one GPU (--gpus-per-task 1) uses that one, whatever its number on the machine
    alone = len(environment.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1
    port = 20_000 + (31 * int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID", "0"))) % 10_000
    found = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": "0" if alone else environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment[TASKS],
        "MASTER_ADDR": first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(port),
    }
    return {**found, **{name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in environment}}


def first_host(hosts: str) -> str:
    """The first of SLURM's list of hosts, for example gpu003 of "gpu[003-007,9],gpu12"."""
    first = re.split(r",(?![^[]*\])", hosts)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)
