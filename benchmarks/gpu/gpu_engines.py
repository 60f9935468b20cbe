"""Times where people run: ASE, a step of training, LAMMPS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ase.build import bulk
from gpu_models import crystal, graph_of, loss_of, make_model
from gpu_ops import seconds

import uip
from uip.ops.kernels import without_kernels
from uip.program.writer import export_model

Row = dict[str, Any]
DECK = """units metal
lattice diamond 5.43
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 28.085
displace_atoms all random 0.05 0.05 0.05 1
pair_style uip {device}
pair_coeff * * {program} Si
velocity all create 600 1
fix move all nve
thermo 100
run 3
run {steps}
"""


def step_of(name: str, cells: int, form: str, setting: Any) -> Row:
    """Energy, forces and stress through ASE, neighbours included: eager or a `.pt` program."""
    device = str(setting.device)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = make_model(name, dry=setting.dry)
        if form == ".pt":
            export_model(model, path := Path(folder) / "model.pt", device=device)
            model = path
        atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(cells)
        atoms.rattle(0.05, seed=0)
        atoms.calc = uip.Calculator(model, device=device, dtype="float32")

        def step() -> None:
            atoms.positions += 1e-4
            atoms.positions[0] += 1e-4
            atoms.get_forces()

        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        least = seconds(step, setting)
    row: Row = {"atoms": len(atoms), "ms": round(1e3 * least, 2), "us_atom": round(1e6 * least / len(atoms), 2)}
    if setting.device.type == "cuda":
        row["peak_GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return row


def in_ase(setting: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Both models, sizes rising."""
    cases = {"chgnet": (2, 5, 10, 20), "allscaip-sm": (2, 5, 10), "allscaip-md": (5, 8)}
    for name, sizes in list(cases.items())[: 2 if setting.dry else 3]:
        for cells in (1,) if setting.dry else sizes:
            for form in ("eager", ".pt"):
                label = f"{name}, Si {8 * cells**3}, {form}"
                yield label, lambda name=name, cells=cells, form=form: step_of(name, cells, form, setting)


def training_step(name: str, structures: int, setting: Any) -> Row:
    """Loss and gradients of weights, with kernels and without."""
    model = deepcopy(make_model(name, dry=setting.dry)).to(device=setting.device, dtype=torch.float32)
    model = model.requires_grad_(True).train()
    graph = graph_of(model, [crystal(1, seed) for seed in range(structures)])
    graph = graph.to(device=setting.device, dtype=torch.float32)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def step() -> None:
        torch.autograd.grad(loss_of(model, graph), weights, allow_unused=True)

    fast = seconds(step, setting)
    with without_kernels():
        plain = seconds(step, setting)
    return {"structures_s": round(structures / fast, 1), "ms": round(1e3 * fast, 1), "plain_ms": round(1e3 * plain, 1)}


def training(setting: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Batches of cells of eight atoms."""
    for name, structures in (("chgnet", 64), ("allscaip-sm", 32)):
        number = 1 if setting.dry else structures
        yield f"{name}, {number} x MgO 8", lambda name=name, number=number: training_step(name, number, setting)


def lammps(cells: int, setting: Any) -> Row:
    """CHGNet as a `.pt` program on one rank."""
    steps = 2 if setting.dry else 20
    device = "" if setting.dry else "device cuda"
    with tempfile.TemporaryDirectory() as folder:
        export_model(make_model("chgnet", dry=setting.dry), Path(folder) / "model.pt", device=str(setting.device))
        deck = DECK.format(cells=cells, steps=steps, program="model.pt", device=device)
        (Path(folder) / "in.deck").write_text(deck)
        command = [str(Path(sys.executable).parent / "lmp"), "-in", "in.deck", "-nocite"]
        done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False)
    loops = re.findall(r"^Loop time of ([\d.e+-]+)", done.stdout, re.M)
    if done.returncode or len(loops) != 2:
        raise RuntimeError((done.stdout + done.stderr)[-400:])
    atoms, time = 8 * cells**3, float(loops[1]) / steps
    return {"atoms": atoms, "ms": round(1e3 * time, 2), "us_atom": round(1e6 * time / atoms, 2)}


def in_lammps(setting: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Sizes rising."""
    for cells in setting.sizes(2, 5, 9, 15):
        yield f"chgnet, Si {8 * cells**3}", lambda cells=cells: lammps(cells, setting)
