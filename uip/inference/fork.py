"""Evaluation in forked processes: OpenMP threads do not exist in the child, where a parallel region would hang."""

from __future__ import annotations

import os
import warnings

import torch

_process = os.getpid()


def survive_fork() -> None:
    """In a forked child: from now on one thread of torch, with a warning; elsewhere nothing."""
    global _process
    if os.getpid() == _process:
        return
    _process = os.getpid()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "a process made by fork evaluates with one thread, because the threads of its parent are missing in it; "
            "start workers with the method 'spawn' to have more",
            RuntimeWarning,
            stacklevel=3,
        )
