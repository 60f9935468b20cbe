"""The loop train -> run dynamics -> select -> label -> train, with selection by a committee and at random.

    python examples/active_learning/loop.py --folder build/active_learning

Both ways label the same number of structures in each round. EMT of ASE stands in for DFT (copper.py). Writes
results.json in the folder: errors on test structures after each round; figure.py draws them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from copper import TEMPERATURES, crystal, dynamics, first_frames, label, test_frames

HERE = Path(__file__).parent
WAYS = ("committee", "random")
MEMBERS = 3


def uip(*arguments: object) -> None:
    """A command of uip, as one types it."""
    subprocess.run([sys.executable, "-m", "uip", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def train(folder: Path, labelled: list[Atoms], steps: int) -> list[Path]:
    """A new committee; returns its models."""
    data = folder / "labelled.xyz"
    ase.io.write(data, labelled)
    epochs = max(1, 4 * steps // len(labelled))  # four structures in a step
    settings = {"data.train": data, "run.folder": folder / "run", "run.epochs": epochs}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    uip("train", HERE / "run.toml", "--seeds", MEMBERS, *words)
    return [folder / "run" / f"seed_{seed}" / "best.ckpt" for seed in range(MEMBERS)]


def explore(models: list[Path], rng: np.random.Generator) -> list[Atoms]:
    """Structures that dynamics of the first model visits."""
    from uip import Calculator

    calculator = Calculator(models[0])
    runs = [dynamics(crystal(rng), calculator, temperature, rng) for temperature in TEMPERATURES]
    return [atoms for frames in runs for atoms in frames]


def choose(
    way: str, frames: list[Atoms], models: list[Path], count: int, folder: Path, rng: np.random.Generator
) -> list[Atoms]:
    """The structures to label next."""
    if way == "random":
        return [frames[k] for k in rng.choice(len(frames), min(count, len(frames)), replace=False)]
    ase.io.write(folder / "visited.xyz", frames)
    members = [word for model in models for word in ("-m", model)]
    uip("select", folder / "visited.xyz", "-n", count, *members, "-o", folder / "next.xyz", "--force")
    return ase.io.read(folder / "next.xyz", ":")


def errors(models: list[Path], frames: list[Atoms]) -> dict[str, float]:
    """Of the committee's mean: root mean square of force components, eV/A; mean of energies, meV/atom."""
    from uip import Calculator

    calculator, forces, energies = Calculator(models), [], []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = calculator
        forces.append((copy.get_forces() - atoms.get_forces()).ravel())
        energies.append(abs(copy.get_potential_energy() - atoms.get_potential_energy()) / len(atoms))
    return {
        "forces": float(np.sqrt(np.mean(np.concatenate(forces) ** 2))),
        "energy": 1e3 * float(np.mean(energies)),
    }


def run_way(way: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """All rounds with one kind of selection; the first and the test structures are those of the other kind too."""
    rng = np.random.default_rng(options.seed)
    tests, labelled = test_frames(rng), first_frames(options.labels, rng)
    found = []
    for number in range(options.rounds):
        folder = options.folder / way / f"round_{number}"
        if folder.exists():
            raise SystemExit(f"{folder} has a loop already; remove it, or choose another --folder")
        folder.mkdir(parents=True)
        models = train(folder, labelled, options.steps)
        found.append({"labels": len(labelled), **errors(models, tests)})
        print(way, found[-1], flush=True)
        if number < options.rounds - 1:
            frames = explore(models, rng)
            labelled += [label(atoms) for atoms in choose(way, frames, models, options.labels, folder, rng)]
    return found


def main() -> None:
    """Each kind of selection in a process of its own, with one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE / "run", help="for all files")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--labels", type=int, default=8, help="structures labelled in each round")
    parser.add_argument("--steps", type=int, default=250, help="gradient steps of each model in each round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=WAYS, help="one kind of selection, of which only the errors are written")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.way:
        found = run_way(options.way, options)
        (options.folder / f"{options.way}.json").write_text(json.dumps(found))
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--way"]
    with ThreadPoolExecutor(len(WAYS)) as pool:
        list(pool.map(lambda way: subprocess.run([*command, way], check=True), WAYS))
    results = {way: json.loads((options.folder / f"{way}.json").read_text()) for way in WAYS}
    (options.folder / "results.json").write_text(json.dumps({"seed": options.seed, **results}, indent=1))


if __name__ == "__main__":
    main()
