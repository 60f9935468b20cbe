"""Writes the validation structures of a run: python validation.py run.toml validation.xyz"""

import sys

from ase.io import write

from uip.data.read import read_atoms
from uip.data.split import random_split
from uip.train.config import read_config

data = read_config(sys.argv[1]).data
frames = [atoms for path in data.train for atoms in read_atoms(path)]
aside = random_split(len(frames), data.validation_fraction, data.split_seed)[1]
write(sys.argv[2], [frames[k] for k in aside])
