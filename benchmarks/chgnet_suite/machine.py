"""What a result depends on: processor, memory, versions."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = ("uip", "lammps_plugin", "openmm_plugin", "CMakeLists.txt")
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MPIR_CVAR_POLLS_BEFORE_YIELD", "MKL_ENABLE_INSTRUCTIONS")
"""Of the environment; they change times."""
INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """Processor and memory, without names of hosts."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(_field(info, "flags").split())
    return {
        "processor": _field(info, "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def load_average() -> float:
    """Of the last minute: how many processes wanted to run."""
    return round(os.getloadavg()[0], 2)


def _field(lines: list[str], name: str) -> str:
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == name), "unknown")


def versions() -> dict[str, str]:
    """Of packages and of this repository."""
    found = {name: importlib.metadata.version(name) for name in ("ase", "lammps", "mpich")}
    return {**found, "uip": f"{importlib.metadata.version('uip')}, commit {commit()}"}


def commit() -> str:
    """Of the work tree, with "+" if sources of uip differ from it."""

    def git(*words: str) -> str:
        result = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return result.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", *SOURCES)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
