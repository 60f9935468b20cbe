"""What a wheel must hold, and must not: python inspect_wheel.py dist/uip-*.whl. `make wheel` does it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from zipfile import ZipFile

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {
    "uip/lib/libuip.so",
    "uip/lib/lammps/uipplugin.so",
    "uip/lib/lammps/libuiplammps.so",
    "uip/lib/openmm/libuipopenmm.so",
}

WEIGHTS = "uip/weights/saltwater-mini.ckpt"


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel, in words."""
    found = [] if "-py3-none-manylinux_" in wheel.name else [f"{wheel.name} must be for every Python, on manylinux"]
    with ZipFile(wheel) as archive:
        libraries = {name for name in archive.namelist() if ".so" in name}
        if libraries != LIBRARIES:
            found.append(f"its libraries must be {sorted(LIBRARIES)}, but are {sorted(libraries)}")
        if WEIGHTS not in archive.namelist():
            found.append(f"it must contain {WEIGHTS}")
        for name in sorted(libraries):
            content = archive.read(name)
            if f"{ROOT}/".encode() in content:
                found.append(f"{name} names {ROOT}, where it was built")
            found += [f"{name}: the search path {path} is not relative" for path in absolute_paths(content)]
    return found


def absolute_paths(library: bytes) -> list[str]:
    """Folders where a library looks for others, if they are not relative to its own."""
    section = ELFFile(io.BytesIO(library)).get_section_by_name(".dynamic")
    assert isinstance(section, DynamicSection)
    paths = [
        tag.runpath if tag.entry.d_tag == "DT_RUNPATH" else tag.rpath
        for tag in section.iter_tags()
        if tag.entry.d_tag in ("DT_RUNPATH", "DT_RPATH")
    ]
    return [path for text in paths for path in text.split(":") if not path.startswith("$ORIGIN/")]


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]))
    print("\n".join(problems) or f"{sys.argv[1]}: relocatable")
    sys.exit(bool(problems))
