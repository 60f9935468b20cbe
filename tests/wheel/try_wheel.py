"""A wheel, installed as a user would: a fresh environment, no compiler, another folder (make test-wheel).

python try_wheel.py write FOLDER              with uip of the sources: programs of a small model
python try_wheel.py install WHEEL FOLDER      makes FOLDER/environment, installs the wheel, and runs there:
python try_wheel.py check FOLDER              LAMMPS on two ranks, OpenMM, ASE, `uip export`, `uip doctor`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BOUND = 1e-9
"""Relative difference allowed between energies of one float64 model in two programs."""
DECK = """
units metal
read_data nio.data
pair_style uip
pair_coeff * * {program} Ni O
run 0
print "ENERGY $(pe:%.14g)"
velocity all create 300 1
fix move all nve
run 5
"""


def write(folder: Path) -> None:
    """FOLDER/small.ckpt, small.pt and small.pt2, and in energy.txt what the model gives here."""
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    from export_files import exported, source

    from uip import Calculator
    from uip.checkpoint import save_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(source("random"), folder / "small.ckpt")
    (folder / "energy.txt").write_text(
        f"{energy_in_ase(crystal(), Calculator(source('random'), dtype='float64')):.14g}"
    )
    for suffix in (".pt", ".pt2"):
        shutil.copyfile(exported("random", suffix), folder / f"small{suffix}")


def install(wheel: Path, folder: Path) -> None:
    """Make FOLDER/environment with the wheel and what it requires, and check it."""
    environment = folder.resolve() / "environment"
    shutil.rmtree(environment, ignore_errors=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", wheel], check=True)
    print(f"installed after {time.monotonic() - began:.0f} s")
    # its own programs alone are in PATH: neither a compiler nor a tool of the system
    variables = {key: value for key, value in os.environ.items() if key not in ("CC", "CXX", "PYTHONPATH")}
    variables |= {"PATH": str(python.parent), "OMP_NUM_THREADS": "1"}
    shutil.copy(__file__, folder / "check.py")  # beside no source of uip
    subprocess.run([python, "check.py", "check", "."], cwd=folder, env=variables, check=True)
    shutil.rmtree(environment)  # torch is large
    print(f"checked after {time.monotonic() - began:.0f} s")


def check(folder: Path) -> None:
    """Raises a RuntimeError unless all of it works."""
    import uip
    from uip import Calculator

    folder, installed = folder.resolve(), Path(uip.__file__)
    require(installed.is_relative_to(sys.prefix), f"the wheel must be what Python imports, but that is {installed}")
    require(shutil.which("g++") is None, "there must be no compiler")
    run("uip", "export", "small.ckpt", "-o", "exported.pt", "--dtype", "float64", "--force", folder=folder)
    atoms = crystal()
    atoms.write(folder / "nio.data", format="lammps-data", specorder=["Ni", "O"], masses=True)
    of_sources = float((folder / "energy.txt").read_text())
    check_program(folder / "small.pt", atoms, of_sources)
    check_program(folder / "small.pt2", atoms, of_sources)
    check_program(
        folder / "exported.pt", atoms, energy_in_ase(atoms, Calculator(folder / "small.ckpt", dtype="float64"))
    )
    check_doctor(json.loads(run("uip", "doctor", "--json", folder=folder)))


def check_program(program: Path, atoms: Any, expected: float) -> None:
    """ASE, OpenMM and LAMMPS give the expected energy (eV)."""
    from uip import Calculator

    energies = {
        "ASE": energy_in_ase(atoms, Calculator(program)),
        "OpenMM": energy_in_openmm(atoms, program),
        "LAMMPS": energy_in_lammps(program),
    }
    print(f"{program.name}: {', '.join(f'{engine} {energy:.10f}' for engine, energy in energies.items())} eV")
    for engine, energy in energies.items():
        close = abs(energy - expected) < BOUND * abs(expected)
        require(close, f"{program.name}: {engine} must give {expected:.10f} eV, but gives {energy:.10f}")


def check_doctor(findings: list[dict[str, Any]]) -> None:
    states = {finding["part"]: finding["state"] for finding in findings}
    for part in ("torch", "libuip", "MPI", "LAMMPS", "OpenMM"):
        require(states[part] == "works", f"{part} must work, see {findings}")
    require("broken" not in states.values(), f"no part may be broken, see {findings}")
    require(states["compiler"] == "absent", f"there must be no compiler, see {findings}")
    print("uip doctor:", ", ".join(f"{part} {state}" for part, state in states.items()))


def crystal() -> Any:
    from ase.build import bulk

    atoms = bulk("NiO", "rocksalt", a=4.18, cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    return atoms


def energy_in_ase(atoms: Any, calculator: Any) -> float:
    atoms = atoms.copy()
    atoms.calc = calculator
    require(atoms.get_forces().shape == (len(atoms), 3), "there must be forces")
    return float(atoms.get_potential_energy())


def energy_in_openmm(atoms: Any, program: Path) -> float:
    """On the platform CPU; eV."""
    import openmm
    from openmm import unit

    from uip.openmm import create_force, topology_from_atoms
    from uip.units import EV_TO_KJ_PER_MOL

    topology, positions = topology_from_atoms(atoms)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(create_force(program, atoms.numbers, periodic=True))
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)
    context.setPositions(positions)
    energy = context.getState(energy=True).getPotentialEnergy()
    context.getIntegrator().step(5)
    return float(energy.value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_PER_MOL)


def energy_in_lammps(program: Path) -> float:
    """On two ranks; eV."""
    (program.parent / "in.check").write_text(DECK.format(program=program.name))
    command = ("mpiexec", "-n", "2", "lmp", "-in", "in.check", "-nocite", "-log", "none")
    text = run(*command, folder=program.parent)
    require("on 2 procs" in text, f"LAMMPS must run on two ranks:\n{text}")
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("ENERGY")))


def run(name: str, *arguments: str, folder: Path) -> str:
    """What a program of this environment prints; if it fails, a RuntimeError with it."""
    command = [str(Path(sys.executable).parent / name), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    require(result.returncode == 0, f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


if __name__ == "__main__":
    {"write": write, "install": install, "check": check}[sys.argv[1]](*map(Path, sys.argv[2:]))
