"""Sets a part of both data sets aside for tests: python split.py mlearn_Si_train.xyz mptrj_sample_train.xyz

Writes si_train.xyz, si_test.xyz (a tenth, at random), mptrj_train.xyz and mptrj_test.xyz (a fifth, whole materials).
"""

import sys

from ase.io import write

from uip.data.read import read_atoms
from uip.data.split import group_split, random_split

silicon, mptrj = (list(read_atoms(path)) for path in sys.argv[1:3])
materials = [atoms.info["mptrj_traj_id"] for atoms in mptrj]
for name, frames, parts in (
    ("si", silicon, random_split(len(silicon), 0.1, 0)),
    ("mptrj", mptrj, group_split(materials, 0.2, 0)),
):
    for part, numbers in zip(("train", "test"), parts, strict=True):
        write(f"{name}_{part}.xyz", [frames[k] for k in numbers])
        print(f"{name}_{part}.xyz: {len(numbers)} structures")
