"""LAMMPS as a library: energies and forces of positions that Python chooses.

export LD_LIBRARY_PATH="$(python -c 'import sys; print(sys.prefix)')/lib:$LD_LIBRARY_PATH"
python forces.py oxide.data chgnet.pt2 Ni O
"""

import sys

from lammps import lammps

data, model, *elements = sys.argv[1:]
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_list(
    [
        "units metal",
        "atom_modify map array sort 0 0.0",
        f"read_data {data}",
        "pair_style uip",
        f"pair_coeff * * {model} {' '.join(elements)}",
        "run 0 post no",
    ]
)
print(lmp.get_thermo("pe"))  # eV

positions = lmp.gather_atoms("x", 1, 3)  # of all atoms by id, as a flat array of ctypes
positions[0] += 0.1
lmp.scatter_atoms("x", 1, 3, positions)
lmp.command("run 0 post no")
forces = lmp.gather_atoms("f", 1, 3)
print(lmp.get_thermo("pe"), list(forces[:3]))  # eV, eV/A
