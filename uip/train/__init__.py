"""Training of potentials: `python -m uip.train run.toml`."""

from uip.train.loop import train as train
