"""Writes float64.json: what fairchem-core 2.24 says of structures with every float32 of its code made float64.

    .venv-fairchem/bin/python tests/data/allscaip/float64.py

The other files here hold numbers of that code as it is, which keeps float32 in places (its graph, harmonics,
frequencies, readout); these show that nothing else separates it from uip.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from safetensors.torch import load_file

HERE = Path(__file__).parent
VARIANTS = ("plain", "angular", "radial", "full")
MOLECULES = {"CH3CH2OH": (0, 1), "C6H6": (-1, 2), "SiH4": (2, 1), "PH3": (1, 2), "ClNO": (-2, 3), "LiF": (0, 1)}
SETTINGS = {
    "use_compile": False,
    "use_padding": False,
    "regress_forces": True,
    "regress_stress": True,
    "direct_forces": False,
    "dataset_list": ["omol"],
    "atten_name": "math",
    "max_num_elements": 110,
    "max_atoms": 100,
    "max_batch_size": 1,
    "max_radius": 6.0,
    "knn_k": 30,
    "use_freq_mask": False,
    "use_sincx_mask": False,
}


def structures() -> dict[str, Atoms]:
    """Molecules, cells smaller than the cutoff, skew cells, partial periodicity, crowds, strays."""
    rng = np.random.default_rng(0)
    result = {name: molecule(name) for name in MOLECULES}
    for name, (charge, spin) in MOLECULES.items():
        result[name].info.update(charge=charge, spin=spin)
    result["silicon, 2 atoms"] = bulk("Si")
    result["MgO, 2 atoms"] = bulk("MgO", "rocksalt", 4.2)
    result["copper, 1 atom"] = bulk("Cu")
    result["iron"] = bulk("Fe", cubic=True)
    result["sodium"] = bulk("Na", cubic=True) * (2, 2, 3)
    result["strained germanium"] = bulk("Ge") * (2, 2, 1)
    result["strained germanium"].set_cell(
        result["strained germanium"].cell.array @ (np.eye(3) + rng.normal(0, 0.12, (3, 3))), scale_atoms=True
    )
    skew = bulk("CsCl", "cesiumchloride", 4.1) * (2, 1, 1)
    skew.set_cell([[1, 0, 0], [1.3, 1, 0], [-0.9, -0.7, 1]] @ skew.cell.array, scale_atoms=True)
    result["skew CsCl"] = skew
    result["slab"] = fcc111("Pt", (2, 2, 3), vacuum=7.0)
    result["wire"] = fcc111("Al", (2, 3, 2), vacuum=6.0)
    result["wire"].pbc = [True, False, False]
    result["crowd"] = Atoms("H40", rng.uniform(0, 4.8, (40, 3)), cell=[4.8] * 3, pbc=True)
    result["crowd"].info.update(charge=1, spin=2)
    result["cluster"] = Atoms("C60", rng.uniform(0, 8.5, (60, 3)))
    result["at the cutoff"] = Atoms("NaCl", [[0, 0, 0], [5.8, 0, 0]])
    result["beyond it"] = Atoms("NaCl", [[0, 0, 0], [0, 0, 30.0]])
    result["outside the cell"] = Atoms("LiF", [[-17, 31, 2], [-15.2, 31, 2]], cell=[7, 8, 9], pbc=True)
    result["hundreds of images"] = Atoms("HeNe", [[0, 0, 0], [1.2, 1.2, 1.1]], cell=[2.4, 2.5, 2.6], pbc=True)
    for atoms in result.values():
        atoms.positions = np.round(atoms.positions + rng.normal(0, 0.08, atoms.positions.shape), 6)
        atoms.cell = np.round(atoms.cell.array, 6)
    return result


def record(atoms: Atoms) -> dict[str, Any]:
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "charge": atoms.info.get("charge", 0),
        "spin": atoms.info.get("spin", 1),
    }


def replace_float32() -> None:
    """From here on whoever asks for float32 gets float64."""
    single, convert = torch.float32, torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        def wide(value: Any) -> Any:
            return torch.float64 if value is single else value

        return convert(self, *map(wide, args), **{name: wide(value) for name, value in kwargs.items()})

    torch.set_default_dtype(torch.float64)
    torch.Tensor.to, torch.Tensor.float = to, torch.Tensor.double  # type: ignore[method-assign]
    torch.float32 = torch.float = torch.float64  # type: ignore[misc]


def model(config: dict[str, Any], state: dict[str, torch.Tensor]) -> torch.nn.Module:
    from fairchem.core.models.allscaip.AllScAIP import AllScAIPBackbone, AllScAIPGradientEnergyForceStressHead
    from fairchem.core.models.base import HydraModelV2

    backbone = AllScAIPBackbone(**{**SETTINGS, **config})
    head = AllScAIPGradientEnergyForceStressHead(backbone, wrap_property=False)
    result = HydraModelV2(backbone, {"efs": head}).eval().requires_grad_(False)
    result.load_state_dict(state)
    return result.double()


def answer(network: torch.nn.Module, atoms: Atoms) -> dict[str, Any]:
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    data = AtomicData.from_ase(atoms, task_name="omol", r_edges=False)
    data.charge = torch.tensor([atoms.info.get("charge", 0)])
    data.spin = torch.tensor([atoms.info.get("spin", 1)])
    found = network(atomicdata_list_to_batch([data]))["efs"]
    result = {"energy": float(found["energy"][0]), "forces": found["forces"].tolist()}
    if all(atoms.pbc):
        result["stress"] = found["stress"].reshape(3, 3).tolist()
    return result


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    states = {variant: load_file(HERE / f"{variant}.safetensors") for variant in VARIANTS}
    replace_float32()
    systems = {name: record(atoms) for name, atoms in structures().items()}
    for name, known in json.loads((HERE / "plain.json").read_text())["systems"].items():
        systems[name] = {key: known[key] for key in ("numbers", "positions", "cell", "pbc", "charge", "spin")}
    answers = {}
    for variant, state in states.items():
        network = model(json.loads((HERE / f"{variant}.json").read_text())["config"], state)
        answers[variant] = {}
        for name, known in systems.items():
            atoms = Atoms(known["numbers"], known["positions"], cell=known["cell"], pbc=known["pbc"])
            atoms.info.update(charge=known["charge"], spin=known["spin"])
            answers[variant][name] = answer(network, atoms)
    (HERE / "float64.json").write_text(json.dumps({"systems": systems, "answers": answers}) + "\n")


if __name__ == "__main__":
    main()
