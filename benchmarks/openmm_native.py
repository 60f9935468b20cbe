"""OpenMM: the native force against the same model as a PythonForce, and against chgnet 0.4.2 through openmm-ml and ASE.

    make bench-openmm
    python benchmarks/openmm_native.py [--steps 10] [--repeats 5] [--threads 2]

Each repeat runs the same few steps (NVE, 1 fs, 300 K) with each code, interleaved, from the same state, in one process.
The table gives the best time of a step, and the median over repeats of the ratio to the native force. "small" has
random weights and 16 channels, so that overhead is visible; "CHGNet" is 0.3.0. float32 throughout.
"neighbours" is the fraction of the native step for neighbours, edges and angles.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import ase
import openmm
import torch
from ase.build import bulk
from openmm import app, unit
from openmmml import MLPotential

from uip.checkpoint import load_model, save_checkpoint
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.openmm import create_force, create_python_force, find_forces, topology_from_atoms
from uip.program.writer import export_model

warnings.filterwarnings("ignore")
SMALL = CHGNetConfig(channels=16, num_layers=3, num_radial=9, num_angular=7, num_readout=1)


def crystal(repeat: int) -> ase.Atoms:
    atoms = bulk("Si", cubic=True).repeat(repeat)
    atoms.rattle(0.05, seed=0)
    return atoms


def small_model() -> CHGNet:
    torch.manual_seed(0)
    return CHGNet(SMALL).requires_grad_(False).eval()


def context_with(atoms: ase.Atoms, force: openmm.Force) -> openmm.Context:
    topology, positions = topology_from_atoms(atoms)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(force)
    return started(system, positions)


def started(system: openmm.System, positions: unit.Quantity) -> openmm.Context:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(300, 1)
    return context


def chgnet_by_ase(atoms: ase.Atoms) -> openmm.Context:
    """chgnet's own calculator in openmm-ml's generic potential."""
    from chgnet.model import CHGNetCalculator

    with contextlib.redirect_stdout(io.StringIO()):
        calculator = CHGNetCalculator(use_device="cpu", verbose=False)
    topology, positions = topology_from_atoms(atoms)
    system = MLPotential("ase").createSystem(topology, calculator=calculator, removeCMMotion=False)
    return started(system, positions)


def contexts(model: CHGNet, atoms: ase.Atoms, folder: Path, *, reference: bool) -> dict[str, openmm.Context]:
    """The same System with each code."""
    compiled, checkpoint = folder / "model.pt2", folder / "model.ckpt"
    export_model(model, compiled, native=True)
    save_checkpoint(model, checkpoint)
    made = {
        "native .pt2": context_with(atoms, create_force(compiled, atoms.numbers, periodic=True)),
        "PythonForce .pt2": context_with(atoms, create_python_force(compiled, atoms.numbers, periodic=True)),
        "PythonForce eager": context_with(atoms, create_python_force(checkpoint, atoms.numbers, periodic=True)),
    }
    if reference:
        made["chgnet 0.4.2, ASE"] = chgnet_by_ase(atoms)
    return made


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(codes: dict[str, openmm.Context], steps: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds per step of each repeat; the first round is warm-up and left out."""
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(repeats + 1):
        for name, context in codes.items():
            times[name].append(clock(lambda context=context: context.getIntegrator().step(steps)) / steps * 1e3)
    return {name: values[1:] for name, values in times.items()}


def report(title: str, times: dict[str, list[float]], native: openmm.Context) -> None:
    counters = find_forces(native)[0].counters
    share = counters["neighbor_seconds"] / counters["total_seconds"]
    searches = counters["num_searches"] / counters["num_evaluations"]
    print(
        f"\n{title}; neighbours {100 * share:.1f} % of a native step, a search in {100 * searches:.0f} % of the steps"
    )
    base = times["native .pt2"]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"  {name:20}{min(values):10.2f} ms/step{ratio:8.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"OpenMM {openmm.version.version}, torch {torch.__version__}, python {platform.python_version()}, "
        f"{arguments.threads} threads, {app.__name__.split('.')[0]} platform Reference"
    )
    for title, model, repeat, reference in (
        ("small model, Si 64", small_model(), 2, False),
        ("CHGNet 0.3.0, Si 64", load_model("chgnet-0.3.0"), 2, True),
    ):
        with tempfile.TemporaryDirectory() as folder:
            codes = contexts(model, crystal(repeat), Path(folder), reference=reference)
            times = interleaved(codes, arguments.steps, arguments.repeats)
            report(title, times, codes["native .pt2"])


if __name__ == "__main__":
    main()
