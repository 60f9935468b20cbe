"""Bad inputs through real runs on two ranks: each ends, with a code that is not 0 and a message."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from export_files import exported
from lammps_run import BIN, environment_of, run_lammps, write_data
from programs import INPUTS, DirectForces, Failing, write_program

from uip.plugins import lammps_plugin, lammps_plugin_folder

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True)
ATOMS.rattle(0.05, seed=3)
LIMIT = 60
"""s; a run that hangs fails its test."""

START = """
units metal
read_data data.atoms
mass 1 58.69
mass 2 15.999
"""
GOOD_STYLE = "pair_style uip\n"
GOOD_COEFF = "pair_coeff * * {file} Ni O\n"
GOOD = START + GOOD_STYLE + GOOD_COEFF


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    return tmp_path


def message_of(
    folder: Path, deck: str, file: Path | None = None, num_ranks: int = 2, variables: dict[str, str] | None = None
) -> str:
    """What a run that must fail printed, its lines joined."""
    deck = deck.replace("{file}", str(file or exported("random", ".pt")))
    run = run_lammps(folder, deck, num_ranks, variables=variables, limit=LIMIT)
    assert run.code != 0, f"this must not succeed:\n{run.text[-2000:]}"
    assert "ERROR" in run.text
    return " ".join(run.text.split())


COMMANDS = {
    "unknown keyword": (
        START + "pair_style uip model.pt2\n",
        "unknown keyword 'model.pt2'; write 'pair_style uip [device auto|cpu|cuda] [charge INTEGER] "
        "[spin MULTIPLICITY] [attention auto|gather|ring] [trusted KEYFILE] [committee [every N] [forces mean|first] "
        "[file NAME] [warn DEVIATION]]', and the model file in pair_coeff",
    ),
    "charge that is no number": (START + "pair_style uip charge\n", "'charge' must be a whole number, got ''"),
    "charge that is not whole": (START + "pair_style uip charge 0.5\n", "'charge' must be a whole number, got '0.5'"),
    "unknown attention": (
        START + "pair_style uip attention tree\n",
        "'attention' must be auto, gather or ring, got 'tree'",
    ),
    "spin that is no multiplicity": (
        START + "pair_style uip spin -1\n",
        "'spin' must be a multiplicity 2S + 1 within 1 .. 100, or 0 for models of data without spin, got -1",
    ),
    "spin beyond all models": (START + "pair_style uip spin 101\n", "'spin' must be a multiplicity 2S + 1 within 1 .."),
    "charge beyond all models": (
        START + "pair_style uip charge 150\n",
        "'charge' must lie within +-100 e, got 150; it is that of the whole system",
    ),
    "negative charge beyond all models": (START + "pair_style uip charge -101\n", "must lie within +-100 e, got -101"),
    "no spin, of a model that does not read it": (
        START + "pair_style uip spin 0\n" + GOOD_COEFF + "run 0\n",
        "knows no total spin, so 'spin' must be 1, got 0; leave it out or use another model",
    ),
    "charge that the model does not read": (
        START + "pair_style uip charge -1\n" + GOOD_COEFF + "run 0\n",
        "knows no total charge, so 'charge' must be 0, got -1; leave it out or use another model",
    ),
    "spin that the model does not read": (
        START + "pair_style uip charge 0 spin 3\n" + GOOD_COEFF + "run 0\n",
        "knows no total spin, so 'spin' must be 1, got 3; leave it out or use another model",
    ),
    "unknown device": (START + "pair_style uip device gpu\n", "'device' must be auto, cpu or cuda, got 'gpu'"),
    "no device": (START + "pair_style uip device\n", "'device' must be auto, cpu or cuda, got ''"),
    "no GPU": (
        START + "pair_style uip device cuda\n" + GOOD_COEFF,
        "'device cuda' needs a GPU, and the computer of rank 0 shows none; use 'device auto'",
    ),
    "single types": (
        START + GOOD_STYLE + "pair_coeff 1 1 {file} Ni O\n",
        "Pair_coeff must start with * * for pair style uip",
    ),
    "no file": (START + GOOD_STYLE + "pair_coeff * *\n", "must be 'pair_coeff * * FILE' and an element or NULL"),
    "too few elements": (
        START + GOOD_STYLE + "pair_coeff * * {file} Ni\n",
        "must name one element (or NULL) for each of the 2 LAMMPS types, got 1",
    ),
    "too many elements": (
        START + GOOD_STYLE + "pair_coeff * * {file} Ni O O\n",
        "must name one element (or NULL) for each of the 2 LAMMPS types, got 3",
    ),
    "no such element": (START + GOOD_STYLE + "pair_coeff * * {file} Ni Oy\n", "pair_coeff: LAMMPS type 2: "),
    "element the model does not know": (
        START + GOOD_STYLE + "pair_coeff * * {file} Au O\n",
        "LAMMPS type 1 is 'Au', but this model knows H He Li",
    ),
    "missing file": (START + GOOD_STYLE + "pair_coeff * * absent.pt2 Ni O\n", "cannot load absent.pt2: no such file"),
    "a folder": (START + GOOD_STYLE + "pair_coeff * * /tmp Ni O\n", "cannot load /tmp: it is no file but a folder"),
    "units lj": (GOOD.replace("metal", "lj") + "run 0\n", "needs 'units metal' or 'units real', got 'lj'"),
    "units si": (GOOD.replace("metal", "si") + "run 0\n", "needs 'units metal' or 'units real', got 'si'"),
    "no pair_coeff": (START + GOOD_STYLE + "run 0\n", "All pair coeffs are not set"),
    "NULL without hybrid": (
        START + GOOD_STYLE + "pair_coeff * * {file} Ni NULL\nrun 0\n",
        "All pair coeffs are not set",
    ),
    "committee of one": (
        START + "pair_style uip committee\n" + GOOD_COEFF + "run 0\n",
        "'committee' needs two or more model files in pair_coeff, got 1; name more of them",
    ),
    "committee without the keyword": (
        START + GOOD_STYLE + "pair_coeff * * {file} {file} Ni O\nrun 0\n",
        "pair_coeff names 2 model files, which needs 'pair_style uip committee'",
    ),
    "committee without elements": (
        START + "pair_style uip committee\npair_coeff * * {file} {file} Ni\n",
        "must name one element (or NULL) for each of the 2 LAMMPS types, got 1",
    ),
    "every without committee": (START + "pair_style uip every 10\n", "'every' must follow the keyword 'committee'"),
    "every zero steps": (START + "pair_style uip committee every 0\n", "'every' must be at least 1 step, got 0"),
    "forces of whom": (START + "pair_style uip committee forces all\n", "'forces' must be mean or first, got 'all'"),
    "no file of deviations": (START + "pair_style uip committee file\n", "'file' must name a file for deviations"),
    "warn at nothing": (START + "pair_style uip committee warn 0\n", "a deviation of a force above 0, got '0'"),
    "warn at a word": (START + "pair_style uip committee warn high\n", "a deviation of a force above 0, got 'high'"),
    "a keyword twice": (
        START + "pair_style uip committee every 5 every 2\n",
        "each keyword must be given once, but 'every' is there twice; remove one",
    ),
    "committee twice": (START + "pair_style uip committee committee\n", "but 'committee' is there twice; remove one"),
    "deviation of one model": (
        GOOD + "fix f all pair 1 uip deviation 0\n",
        "'deviation' needs a committee, but pair_coeff names one model; use 'pair_style uip committee'",
    ),
    "uncertainty of a model without": (
        GOOD + "fix f all pair 1 uip uncertainty 0\n",
        "'uncertainty' needs one calibrated model; run 'uip calibrate'",
    ),
    "moments without a model": (
        START + GOOD_STYLE + "fix f all pair 1 uip magmoms 0\n",
        "'magmoms' of pair style uip needs a model; give pair_coeff in front of the fix",
    ),
    "unknown output": (GOOD + "fix f all pair 1 uip charges 0\nrun 0\n", "charges"),
    "atoms on top of each other": (
        GOOD + "create_atoms 2 single 2.0 2.0 2.0\ncreate_atoms 1 single 2.0 2.05 2.0\nrun 0\n",
        "atoms must be at least 0.1 A apart, but atoms 9 and 10 are 0.05 A apart",
    ),
    "explosion": (
        GOOD
        + "velocity all set 1e308 0 0\nfix f all nve\nneigh_modify delay 100 every 100 check no\ntimestep 10\nrun 3\n",
        "positions must be finite, but atom",
    ),
}


REAL_RUNS = ("unknown keyword", "missing file", "atoms on top of each other", "explosion")
"""These run as users run them: `mpiexec lmp`. The last two are errors of some ranks only, which end all processes."""


@pytest.mark.parametrize("name", REAL_RUNS)
def test_commands_of_a_real_run(name: str, folder: Path) -> None:
    deck, expected = COMMANDS[name]
    assert expected in message_of(folder, deck)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The messages of all other decks, which run one after the other in one start of LAMMPS on two ranks."""
    folder = tmp_path_factory.mktemp("commands")
    write_data(ATOMS, folder / "data.atoms", ["Ni", "O"])
    model = str(exported("random", ".pt"))
    decks = {name: deck.replace("{file}", model) for name, (deck, _) in COMMANDS.items() if name not in REAL_RUNS}
    (folder / "decks.json").write_text(json.dumps(decks))
    script = str(Path(__file__).with_name("bad_commands.py"))
    variables = {"LD_LIBRARY_PATH": str(BIN.parent / "lib"), "LAMMPS_PLUGIN_PATH": lammps_plugin_folder()}
    command = [str(BIN / "mpiexec"), "-n", "2", sys.executable, script, "decks.json"]
    environment = environment_of(variables)
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "errors.json").read_text())


@pytest.mark.xdist_group("bad commands")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in REAL_RUNS])
def test_commands(name: str, errors: dict[str, str]) -> None:
    assert "ERROR" in errors[name]
    assert COMMANDS[name][1] in errors[name]


def test_a_message_names_rank_and_step(folder: Path) -> None:
    deck = COMMANDS["explosion"][0]
    assert re.search(
        r"pair uip stopped on rank [01] of 2 at step \d+: positions must be finite", message_of(folder, deck)
    )


def test_a_pair_in_one_list_only(tmp_path: Path) -> None:
    """Two atoms whose distance is that of the list from one side, and one bit more from the other; then they meet."""
    box, reach = 20.0, 8.0  # cutoff 6 A and skin 2 A
    rng = np.random.default_rng(0)
    left = rng.uniform(1.0, 2.0, 100_000)
    right = left + (box - reach)
    from_left, from_right = left - (right - box), (left + box) - right
    found = np.flatnonzero((from_left <= reach) != (from_right <= reach))[0]
    atoms = Atoms("NiO", [[right[found], 5.0, 5.0], [left[found], 5.0, 5.0]], cell=[box, 20.0, 20.0])
    write_data(atoms, tmp_path / "data.atoms", ["Ni", "O"])
    deck = GOOD + "neigh_modify delay 100 every 100 check no\ntimestep 1.0\nfix f all nve\n"
    deck += "group nickel id 1\nvelocity nickel set 4 0 0\nrun 1\n"
    for num_ranks in (1, 2):
        text = message_of(tmp_path, deck, num_ranks=num_ranks)
        assert re.search(r"but atoms [12] and [12] are [34]\S* A apart and one of them has not", text)


def test_a_bad_distance_on_one_rank_while_ranks_of_neighbours_travel(tmp_path: Path) -> None:
    """Before ends of an edge tell each other their ranks, all processes agree that they can."""
    atoms = Atoms("OH2OH", [[3, 3, 3], [3, 3, 4], [3, 4, 3], [30, 30, 30], [30, 30, 30.05]], cell=[40.0, 40.0, 40.0])
    write_data(atoms, tmp_path / "data.atoms", ["H", "O"])
    deck = GOOD.replace("58.69", "1.008").replace("Ni", "H").replace("units metal", "units metal\nprocessors 2 2 1")
    text = message_of(tmp_path, deck + "run 0\n", exported("allscaip-plain", ".pt"), num_ranks=4)
    assert "of 4 at step 0: atoms must be at least 0.1 A apart, but atoms 4 and 5 are 0.05 A apart" in text


def test_a_truncated_file(folder: Path) -> None:
    broken = folder / "broken.pt"
    broken.write_bytes(exported("random", ".pt").read_bytes()[:-5000])
    assert "rank 0 cannot use" in (text := message_of(folder, GOOD, broken))
    assert "broken.pt" in text


def test_a_file_of_something_else(folder: Path) -> None:
    other = folder / "other.pt2"
    other.write_text("no model at all")
    assert f"cannot load {other}" in message_of(folder, GOOD, other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other/notes.txt", "a zip archive without a model")
    assert f"cannot load {other}" in message_of(folder, GOOD, other)


def small_program(folder: Path, **changes: object) -> Path:
    return write_program(Failing("nothing", 0), folder / "program.pt", ATOMS, **changes)


def test_a_file_of_a_newer_schema(folder: Path) -> None:
    assert "schema 99" in message_of(folder, GOOD, small_program(folder, schema_version=99))


def test_a_file_of_another_torch(folder: Path) -> None:
    text = message_of(folder, GOOD, small_program(folder, torch_version="2.4.1"))
    assert "2.4.1" in text
    assert "run 'uip export' again" in text


def test_a_file_for_another_device(folder: Path) -> None:
    file = small_program(folder)
    assert "device" in message_of(folder, GOOD, small_program(folder, device="cuda"))
    assert file.exists()


def test_a_file_that_fails_its_self_test(folder: Path) -> None:
    file = write_program(Failing("energy", len(ATOMS)), folder / "program.pt", ATOMS)
    assert "self-test" in message_of(folder, GOOD, file)


def test_a_model_for_one_rank(folder: Path) -> None:
    file = small_program(folder, parallel=False)
    assert "right numbers on one rank only, but this run has 2; use one" in message_of(folder, GOOD, file)
    assert run_lammps(folder, GOOD.replace("{file}", str(file)) + "run 0\n", 1).code == 0


def test_a_model_without_forces(folder: Path) -> None:
    file = small_program(folder, outputs=["node_energy", "virial", "magmoms"])
    assert "outputs node_energy and edge_grad (or forces), but 'test' gives node_energy virial" in message_of(
        folder, GOOD, file
    )


def test_a_model_that_asks_for_more(folder: Path) -> None:
    file = small_program(folder, inputs=[*INPUTS[:-1], "shifts"])
    assert "also asks for 'shifts'" in message_of(folder, GOOD, file)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("raise", r"pair uip stopped on rank 0 of 4 at step 0: 'test' failed: .*a deliberate failure"),
        ("memory", r"pair uip stopped on rank 0 of 4 at step 0: .*out of memory with 3 atoms, 0 ghosts, 6 edges"),
        ("energy", r"pair uip stopped on rank 0 of 4 at step 0: the energy of atom \d is -?nan"),
        ("forces", r"pair uip stopped on rank 0 of 4 at step 0: the force on atom \d is \(-?nan"),
    ],
)
def test_one_rank_fails_while_others_wait(how: str, expected: str, tmp_path: Path) -> None:
    """Three of four ranks have no atoms and are inside, or past, an exchange when the first one fails."""
    atoms = Atoms("NiO2", [[3.0, 3.0, 3.0], [5.0, 3.3, 3.1], [3.2, 5.1, 2.9]], cell=[40.0, 40.0, 40.0])
    write_data(atoms, tmp_path / "data.atoms", ["Ni", "O"])
    file = write_program(Failing(how, len(atoms)), tmp_path / "program.pt", ATOMS)
    deck = GOOD.replace("units metal", "units metal\nboundary f f f\nprocessors 2 2 1") + "run 0\n"
    assert re.search(expected, message_of(tmp_path, deck, file, num_ranks=4))


def test_direct_forces_have_no_virial(folder: Path) -> None:
    """Such a model runs, with warnings; no pressure looks as if it were right."""
    names = ["node_energy", "forces", "magmoms"]
    file = write_program(DirectForces(), folder / "program.pt", ATOMS, outputs=names, conservative=False)
    deck = GOOD + "compute stress all stress/atom NULL\ncompute sum all reduce sum c_stress[1]\nfix f all nve\n"
    deck += "thermo_style custom step fmax press c_sum\nrun 2\nprint 'RESULT $(fmax) $(press) $(c_sum)'\n"
    run = run_lammps(folder, deck.replace("{file}", str(file)), 2)
    assert run.code == 0, run.text
    assert "its forces are no derivative of its energy" in run.text
    assert "predicts forces but no virial: pressures and stresses will be nan" in run.text
    assert re.search(r"^RESULT 1 -?nan -?nan$", run.text, re.M)


def test_bonded_neighbours_left_out(tmp_path: Path) -> None:
    data = "one bond\n\n2 atoms\n1 bonds\n1 atom types\n1 bond types\n0 9 xlo xhi\n0 9 ylo yhi\n0 9 zlo zhi\n"
    data += "\nMasses\n\n1 15.999\n\nAtoms # bond\n\n1 1 1 1 1 1\n2 1 1 2.2 1 1\n\nBonds\n\n1 1 1 2\n"
    (tmp_path / "data.atoms").write_text(data)
    deck = "units metal\natom_style bond\nread_data data.atoms\nbond_style zero\nbond_coeff *\n" + GOOD_STYLE
    deck += GOOD_COEFF.replace("Ni ", "")
    assert "special_bonds is 0 for 1-2 pairs" in message_of(tmp_path, deck + "run 0\n")
    good = deck + "special_bonds lj/coul 1 1 1\nrun 0\n"
    assert run_lammps(tmp_path, good.replace("{file}", str(exported("random", ".pt"))), 1).code == 0


@pytest.mark.slow
def test_restart_with_another_model(folder: Path) -> None:
    """A changed or missing model file is refused; a new pair_coeff helps."""
    file = folder / "model.pt"
    shutil.copy(exported("random", ".pt"), file)
    assert run_lammps(folder, GOOD.replace("{file}", "model.pt") + "run 0\nwrite_restart begin\n", 2).code == 0
    again = "read_restart begin\n"
    shutil.copy(exported("chgnet-0.3.0", ".pt"), file)
    text = message_of(folder, again + "run 0\n")
    assert f"the model file that wrote the restart file, '{file}' with sha256" in text
    file.unlink()
    assert "no such file; restore it there or in the current folder, or give a new pair_coeff" in message_of(
        folder, again + "run 0\n"
    )
    helped = again + GOOD_COEFF.replace("{file}", str(exported("random", ".pt"))) + "run 0\n"
    assert run_lammps(folder, helped, 2).code == 0


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("int lammps_version(void *) { return 20310101; }", "but this is LAMMPS 20310101; build the plugin for this"),
        (
            "unsigned long aoti_torch_abi_version() { return (9ul << 56) | (8ul << 48) | (7ul << 40); }",
            "but this is torch 9.8.7",
        ),
        (
            "#include <cstring>\nint MPI_Get_library_version(char *t, int *n) "
            '{ std::strcpy(t, "Open MPI v5.0.0"); *n = 15; return 0; }',
            "built for LAMMPS with MPICH, but this is LAMMPS with Open MPI",
        ),
        ("int lammps_config_has_mpi_support() { return 0; }", "but this is a serial LAMMPS"),
        (
            "int lammps_extract_setting(void *, const char *) { return 8; }",
            "built for LAMMPS with SMALLBIG integers, but this is LAMMPS with BIGBIG integers",
        ),
    ],
    ids=["lammps", "torch", "mpi", "serial", "integers"],
)
def test_another_lammps_torch_or_mpi(function: str, expected: str, folder: Path) -> None:
    """A library that answers the version question in place of the real one. Only users of the style get the message."""
    source = folder / "other.cpp"
    signature = re.search(r"^(.*?)(int |unsigned long )(\w+)", function, re.S)
    assert signature
    source.write_text(function.replace(signature.group(2), f'extern "C" {signature.group(2)}', 1))
    subprocess.run(["g++", "-shared", "-fPIC", "-o", folder / "other.so", source], check=True)
    variables = {"LD_PRELOAD": str(folder / "other.so")}
    assert expected in message_of(folder, GOOD, num_ranks=1, variables=variables)
    assert run_lammps(folder, START + "pair_style zero 3\npair_coeff * *\nrun 0\n", 1, variables=variables).code == 0


def test_plugin_needs_no_symbol_that_another_lammps_may_lack() -> None:
    """LAMMPS' C functions and the system's libraries: neither classes of LAMMPS, nor MPI, nor torch."""
    command = ["nm", "-D", "--undefined-only", str(lammps_plugin())]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[-1] for line in table.splitlines()}
    wanted = "command config_has_exceptions config_has_mpi_support error extract_setting version"
    assert {name for name in symbols if name.startswith("lammps_")} == {f"lammps_{name}" for name in wanted.split()}
    assert not [name for name in symbols if re.search(r"LAMMPS_NS|^MPI_|torch|c10", name)]


def test_style_that_cannot_be_loaded(folder: Path) -> None:
    """On one rank with an exception, on two ranks at the end of all; in words."""
    shutil.copy(lammps_plugin(), folder)
    (folder / "libuiplammps.so").write_text("no library")
    for num_ranks in (1, 2):
        text = message_of(folder, "plugin unload pair uip\nplugin load ./uipplugin.so\n" + GOOD, num_ranks=num_ranks)
        assert re.search(r"pair_style uip cannot be loaded: \S*libuiplammps\.so: \w+", text)
