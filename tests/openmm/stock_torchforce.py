"""Stock openmm-torch runs the file of `uip export --target torchforce`: the numbers of ASE (make test-torchforce).

python stock_torchforce.py write FOLDER      with uip: files, and the numbers of ASE
python stock_torchforce.py check FOLDER      in an environment with openmm-torch, and without uip
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

EV_TO_KJ_PER_MOL = 96.48533212331002
BOUNDS = {"float64": 1e-8, "float32": 5e-5}


def write(folder: Path) -> None:
    """For each case FOLDER/<name>.pt and FOLDER/<name>.json: structure in nm, energy and forces in eV and A."""
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    import numpy as np
    import systems
    from openmm_systems import case_of

    from uip import Calculator
    from uip.checkpoint import load_model
    from uip.program.torchforce import export_torchforce
    from uip.program.writer import export_model

    model = load_model("chgnet-0.3.0", dtype="float64")
    folder.mkdir(parents=True, exist_ok=True)
    # published rounding is not exported: compare with the exact form
    export_model(model, folder / "exact.pt2", dtype="float64")
    for name, dtype in (
        ("nio", "float64"),
        ("skewed_cell", "float64"),
        ("water", "float64"),
        ("si_rattled", "float32"),
    ):
        atoms = case_of(systems.ALL[name]()).atoms
        periodic = bool(atoms.pbc.all())
        export_torchforce(model, folder / f"{name}.pt", atoms.numbers, periodic=periodic, dtype=dtype)
        atoms.calc = Calculator(folder / "exact.pt2")
        case = {
            "dtype": dtype,
            "periodic": periodic,
            "masses": atoms.get_masses().tolist(),
            "positions": (atoms.positions * 0.1).tolist(),
            "box": (np.array(atoms.cell.array) * 0.1).tolist(),
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces().tolist(),
        }
        (folder / f"{name}.json").write_text(json.dumps(case))
    (folder / "exact.pt2").unlink()


def check(folder: Path) -> None:
    """Runs all cases on all platforms, and once more from XML; exits with 1 if a number differs."""
    import openmm
    from openmmtorch import TorchForce

    cases = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    assert cases, f"{folder} holds no cases"
    worst = 0.0
    for name, case in cases.items():
        system = openmm.System()
        for mass in case["masses"]:
            system.addParticle(mass)
        force = TorchForce(str(folder / f"{name}.pt"))
        force.setOutputsForces(True)
        force.setUsesPeriodicBoundaryConditions(case["periodic"])
        system.addForce(force)
        if case["periodic"]:
            system.setDefaultPeriodicBoxVectors(*case["box"])
        again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
        for platform in ("Reference", "CPU"):
            for kind, what in (("file", system), ("xml", again)):
                error = deviation(what, case, platform) / BOUNDS[case["dtype"]]
                worst = max(worst, error)
                sys.stdout.write(f"{name:12} {case['dtype']} {platform:10} {kind:5} error / bound = {error:.2g}\n")
    sys.exit(worst >= 1.0)


def deviation(system: Any, case: dict[str, Any], platform: str) -> float:
    """The larger of the relative errors of energy and forces."""
    import numpy as np
    import openmm
    from openmm import unit

    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform))
    context.setPositions(np.array(case["positions"]))
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_PER_MOL
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom) / EV_TO_KJ_PER_MOL
    wanted = np.array(case["forces"])
    force_error = np.abs(forces - wanted).max() / max(1.0, np.abs(wanted).max())
    return max(abs(energy / case["energy"] - 1.0), float(force_error))


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
