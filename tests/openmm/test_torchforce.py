"""The file for stock openmm-torch: neighbours, energies and forces, with nothing but torch loaded."""

from __future__ import annotations

import functools
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import systems
import torch
from ase import Atoms
from conftest import calibrated, random_chgnet
from export_files import source

from uip.checkpoint import load_model
from uip.graph.ase_io import structure_from_atoms
from uip.graph.neighbors import build_graph
from uip.models.chgnet import CHGNetConfig
from uip.program import torchforce
from uip.program.torchforce import export_torchforce, find_edges
from uip.units import A_TO_NM, EV_TO_KJ_PER_MOL

# torch warns that TorchScript is deprecated; openmm-torch reads nothing else
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.xdist_group("torchforce"),  # one worker traces
]

NAMES = ("si_rattled", "nio", "tiny_cell", "skewed_cell", "water", "lone_atom", "far_pair")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cutoff", [3.0, 6.0])
def test_the_same_edges_as_everywhere(name: str, cutoff: float) -> None:
    atoms = systems.ALL[name]()
    graph = build_graph(structure_from_atoms(atoms), cutoff)
    box = torch.tensor(atoms.cell.array if atoms.pbc.all() else np.eye(3))
    edge_index, shifts, edge_vec = find_edges(torch.tensor(atoms.positions), box, bool(atoms.pbc.all()), cutoff)

    def rows(index: torch.Tensor, cells: torch.Tensor) -> list[list[int]]:
        return sorted(torch.cat([index.T, cells], dim=1).tolist())

    assert rows(edge_index, shifts) == rows(graph.edge_index, graph.shifts)
    assert (edge_index[0].diff() >= 0).all()
    wanted = graph.edge_vec.square().sum(1).sort().values
    assert edge_vec.square().sum(1).sort().values == pytest.approx(wanted, rel=1e-12)


@pytest.fixture(autouse=True)
def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of a model and a precision is the same for all structures; a trace takes 5 s."""
    monkeypatch.setattr(torchforce, "serial_program", lambda model, dtype: deepcopy(program_of(model, dtype)))


program_of = functools.cache(torchforce.serial_program)


def test_a_calibrated_model_gives_energy_and_forces_alone() -> None:
    config = CHGNetConfig(num_elements=30, channels=8, num_layers=2, num_radial=5, num_angular=5, num_readout=1)
    program = program_of(calibrated(random_chgnet(config)), "float64")
    (returned,) = next(node for node in program.graph.nodes if node.op == "output").args
    assert len(returned) == 3


def ase_numbers(atoms: Atoms) -> tuple[float, np.ndarray]:
    from uip import Calculator

    copy = atoms.copy()
    copy.calc = Calculator(source("random"))
    return copy.get_potential_energy(), copy.get_forces()


@pytest.mark.parametrize(
    ("name", "dtype", "bound"), [*((name, "float64", 1e-9) for name in NAMES), ("nio", "float32", 5e-5)]
)
def test_energy_and_forces(name: str, dtype: str, bound: float, tmp_path: Path) -> None:
    first = systems.ALL[name]()
    periodic = bool(first.pbc.all())
    export_torchforce(source("random"), tmp_path / "x.pt", first.numbers, periodic=periodic, dtype=dtype)
    # as openmm-torch does; twice, since the executor optimises after it has seen the first call
    module = torch.jit.freeze(torch.jit.load(tmp_path / "x.pt").eval())
    for atoms in (first, first, moved(first)):  # other numbers of edges than at the first call
        energy, forces = ase_numbers(atoms)
        arguments = [torch.tensor(atoms.positions * A_TO_NM)]
        if periodic:
            arguments.append(torch.tensor(atoms.cell.array * A_TO_NM))
        got_energy, got_forces = module(*arguments)
        assert got_energy.item() / EV_TO_KJ_PER_MOL == pytest.approx(energy, rel=bound)
        assert got_forces.is_contiguous()
        assert got_forces.dtype == torch.float64
        scale = max(1.0, np.abs(forces).max())
        assert np.abs(got_forces.numpy() / (EV_TO_KJ_PER_MOL / A_TO_NM) - forces).max() < bound * scale


def moved(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.rattle(0.1, seed=11)
    return copy


def test_some_particles(tmp_path: Path) -> None:
    water = systems.water()
    export_torchforce(
        source("random"), tmp_path / "x.pt", water.numbers, periodic=False, particles=[3, 0, 4], dtype="float64"
    )
    positions = np.full((6, 3), 77.0)
    positions[[3, 0, 4]] = water.positions
    energy, forces = torch.jit.load(tmp_path / "x.pt")(torch.tensor(positions * A_TO_NM))
    wanted, wanted_forces = ase_numbers(water)
    assert energy.item() / EV_TO_KJ_PER_MOL == pytest.approx(wanted, rel=1e-9)
    assert forces[[3, 0, 4]].numpy() / (EV_TO_KJ_PER_MOL / A_TO_NM) == pytest.approx(wanted_forces, abs=1e-8)
    assert forces[[1, 2, 5]].abs().max() == 0.0


def test_only_torch_is_needed(tmp_path: Path) -> None:
    atoms = systems.nio()
    export_torchforce(source("random"), tmp_path / "x.pt", atoms.numbers, periodic=True)
    code = (
        "import sys, torch; m = torch.jit.load(sys.argv[1]); "
        "m(torch.rand(8, 3), 5 * torch.eye(3)); assert 'uip' not in sys.modules"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "x.pt")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr


def test_messages(tmp_path: Path) -> None:
    model = load_model("chgnet-0.3.0")
    with pytest.raises(ValueError, match=r"a file for openmm-torch must be named \*\.pt, got 'x\.pt2'"):
        export_torchforce(model, tmp_path / "x.pt2", [1], periodic=False)
    with pytest.raises(ValueError, match="no such folder"):
        export_torchforce(model, tmp_path / "no" / "x.pt", [1], periodic=False)
    with pytest.raises(ValueError, match=r"has atomic numbers \[99\], which 'chgnet-0\.3\.0' does not know"):
        export_torchforce(model, tmp_path / "x.pt", [1, 99], periodic=False)
    with pytest.raises(ValueError, match="`particles` must name a place for each of the 1 atomic numbers, got 2"):
        export_torchforce(model, tmp_path / "x.pt", [1], periodic=False, particles=[0, 1])


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from uip.cli.app import app

    systems.nio().write(tmp_path / "nio.xyz")
    Atoms("Al2", [[0, 0, 0], [2, 2, 0]], cell=[4, 4, 9], pbc=(1, 1, 0)).write(tmp_path / "slab.xyz")
    run = CliRunner().invoke
    base = ["export", "chgnet-0.3.0", "-o", str(tmp_path / "x.pt")]
    good = run(app, [*base, "--target", "torchforce", "--structure", str(tmp_path / "nio.xyz")])
    assert good.exit_code == 0, good.output
    energy, _ = torch.jit.load(tmp_path / "x.pt")(
        torch.tensor(systems.nio().positions * A_TO_NM), torch.tensor(systems.nio().cell.array * A_TO_NM)
    )
    assert -8 < energy.item() / EV_TO_KJ_PER_MOL / 8 < -4
    for arguments, message in (
        (["--target", "jax"], "--target must be engine or torchforce, got 'jax'"),
        (["--target", "torchforce"], "--target torchforce needs --structure FILE"),
        (["--structure", "nio.xyz"], "--target torchforce needs --structure FILE"),
        (["--target", "torchforce", "--structure", "nio.xyz", "--device", "cuda"], "leave --device out"),
        (["--target", "torchforce", "--structure", str(tmp_path / "slab.xyz")], "along all directions or none"),
    ):
        bad = run(app, [*base, "--force", *arguments])
        assert bad.exit_code == 1
        assert message in bad.output


def test_path_of_the_plugin() -> None:
    from typer.testing import CliRunner

    from uip.cli.app import app
    from uip.plugins import openmm_plugin

    result = CliRunner().invoke(app, ["openmm-plugin"])
    assert result.output.strip() == str(openmm_plugin())
