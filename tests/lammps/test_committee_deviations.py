"""Committees in LAMMPS on two ranks: their means and deviations are those of separate runs of the members."""

from __future__ import annotations

import re
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from export_files import exported, source
from lammps_run import DUMP, OUTPUT, Result, read_dump, read_result, run_lammps, write_data
from programs import CUTOFF, Decaying, write_program

from uip.program.writer import export_model

pytestmark = pytest.mark.xdist_group("committee")

ATOMS = bulk("NiO", "rocksalt", a=4.17, cubic=True).repeat((2, 1, 1))
ATOMS.rattle(0.1, seed=4)
MEMBERS = [(3.0, 0.8), (2.5, 0.9), (3.5, 0.7), (2.0, 1.1)]
"""Strength in eV and length in A of each."""
NAMES = ("max_f", "min_f", "mean_f", "energy", "max_v", "min_v", "mean_v")
START = "units {units}\nread_data data.atoms\nmass 1 58.69\nmass 2 15.999\nfix move all nve\n"


def deck(name: str, style: str, files: str, units: str = "metal", steps: str = "run 0", every: int = 1) -> str:
    """A run from the start that writes what `read_result` reads."""
    lines = f"clear\nlog log.{name}\n" + START.format(units=units) + f"pair_style uip {style}\n"
    lines += f"pair_coeff * * {files} Ni O\n{OUTPUT}\ncompute dev all pair uip\n"
    if style:
        lines += f"fix dev all pair {every} uip deviation 0\n"
    lines += f"{steps}\n{DUMP.format(name=name, more='f_dev' if style else '')}"
    values = " ".join(f"$(c_dev[{8 + k}]:%.16g)" for k in range(len(NAMES)))
    return lines + f'print "DEVIATION {name} {values}"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, in one start of LAMMPS."""
    folder = tmp_path_factory.mktemp("committee")
    write_data(ATOMS, folder / "data.atoms", ["Ni", "O"])
    for number, member in enumerate(MEMBERS):
        write_program(Decaying(*member), folder / f"{number}.pt", ATOMS)
    files = " ".join(f"{number}.pt" for number in range(len(MEMBERS)))
    decks = [deck(str(number), "", f"{number}.pt") for number in range(len(MEMBERS))]
    decks += [
        deck("mean", "committee warn 0.01", files),
        deck("first", "committee forces first", files),
        deck("real", "committee", files, units="real"),
        deck(
            "dynamics",
            "committee every 2 file devi.txt",
            files,
            steps="run 4\nrun 1\nwrite_restart state",
            every=2,
        ),
        "clear\nread_restart state\nfix move all nve\nrun 3\nprint 'RESTARTED $(pe:%.16g)'\n",
    ]
    run = run_lammps(folder, "\n".join(decks), 2)
    assert run.code == 0, run.text[-3000:]
    (folder / "screen").write_text(run.text)
    return folder


def deviation(folder: Path, name: str) -> dict[str, float]:
    """Of `compute pair`."""
    line = re.findall(rf"^DEVIATION {name} (.*)$", (folder / "screen").read_text(), re.M)[-1]
    return dict(zip(NAMES, map(float, line.split()), strict=True))


def separate(folder: Path) -> list[Result]:
    return [read_result(folder, str(number)) for number in range(len(MEMBERS))]


def test_results_are_means(folder: Path) -> None:
    members, mean = separate(folder), read_result(folder, "mean")
    np.testing.assert_allclose(mean.forces, np.mean([member.forces for member in members], axis=0), atol=1e-10)
    np.testing.assert_allclose(mean.virial, np.mean([member.virial for member in members], axis=0), atol=1e-10)
    assert mean.thermo["pe"] == pytest.approx(np.mean([member.thermo["pe"] for member in members]), abs=1e-10)
    first = read_result(folder, "first")
    np.testing.assert_allclose(first.forces, members[0].forces, atol=1e-12)
    assert len(set(mean.proc)) == 2


def test_deviations_are_those_of_separate_runs(folder: Path) -> None:
    members = separate(folder)
    forces = np.array([member.forces for member in members])
    of_atoms = np.sqrt(((forces - forces.mean(0)) ** 2).sum(2).mean(0))
    virial = np.std([member.virial for member in members], axis=0)[[0, 1, 2, 3, 4, 5, 3, 4, 5]] / len(ATOMS)
    expected = {
        "max_f": of_atoms.max(),
        "min_f": of_atoms.min(),
        "mean_f": of_atoms.mean(),
        "energy": np.std([member.thermo["pe"] for member in members]),
        "max_v": virial.max(),
        "min_v": virial.min(),
        "mean_v": np.sqrt((virial**2).mean()),
    }
    assert min(expected.values()) > 1e-4
    for name in ("mean", "first"):
        np.testing.assert_allclose(read_result(folder, name).more[:, 0], of_atoms, rtol=0, atol=1e-10)
        assert deviation(folder, name) == pytest.approx(expected, rel=0, abs=1e-10)


@pytest.mark.slow
def test_models_that_communicate(tmp_path: Path) -> None:
    """CHGNet exchanges rows with other ranks in each layer. The members differ by their reference energies."""
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    chgnet, twin = exported("random", ".pt"), deepcopy(source("random"))
    twin.reference_energy += 1.0
    export_model(twin, tmp_path / "twin.pt", dtype="float64")
    run = run_lammps(tmp_path, deck("chgnet", "", str(chgnet)) + deck("twins", "committee", f"{chgnet} twin.pt"), 2)
    assert run.code == 0, run.text[-3000:]
    alone, twins = read_result(tmp_path, "chgnet"), read_result(tmp_path, "twins")
    np.testing.assert_allclose(twins.forces, alone.forces, atol=1e-12)
    assert twins.thermo["pe"] == pytest.approx(alone.thermo["pe"] + 0.5 * len(ATOMS), abs=1e-9)
    assert np.abs(alone.forces).max() > 0.1
    assert twins.more.max() < 1e-12


def test_units_of_lammps(folder: Path) -> None:
    kcal = deviation(folder, "real")["energy"] / deviation(folder, "mean")["energy"]
    assert kcal == pytest.approx(23.0605, rel=1e-5)
    in_metal, in_real = (read_dump(folder / f"dump.{name}")[-1][:, 10] for name in ("mean", "real"))
    np.testing.assert_allclose(in_real, kcal * in_metal, rtol=1e-9)


def test_file_is_that_of_deepmd(folder: Path) -> None:
    """Every second step once, over two runs and a restart, which appends; tools read it with numpy.loadtxt."""
    lines = (folder / "devi.txt").read_text().splitlines()
    columns = ["step", *(f"{kind}_devi_{what}" for what in "vf" for kind in ("max", "min", "avg"))]
    assert lines[0].lstrip("#").split() == columns
    table = np.loadtxt(folder / "devi.txt")
    assert table[:, 0].tolist() == [0, 2, 4, 6, 8]
    found = deviation(folder, "mean")
    ordered = [found[name] for name in ("max_v", "min_v", "mean_v", "max_f", "min_f", "mean_f")]
    np.testing.assert_allclose(table[0, 1:], ordered, rtol=1e-6)
    assert len(set(table[:, 4])) == 5
    # the last run ended at step 5: those of step 4
    assert read_result(folder, "dynamics").more[:, 0].max() == pytest.approx(table[2, 4], rel=1e-6)


def test_warning_names_atoms(folder: Path) -> None:
    text = " ".join((folder / "screen").read_text().split())
    found = read_dump(folder / "dump.mean")[-1]
    worst = found[np.argmax(found[:, 10])]
    assert f"pair uip at step 0: the committee extrapolates, forces on {len(ATOMS)} atoms deviate by more than" in text
    assert f"0.01, most on {worst[0]:.0f} ({worst[10]:.3g}), " in text
    assert text.count("the committee extrapolates") == 1


def message_of(folder: Path, tmp_path: Path, style: str, files: str, then: str = "run 0\n") -> str:
    """Of a run on one rank that must fail."""
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    commands = START.format(units="metal") + f"pair_style uip {style}\npair_coeff * * {folder}/0.pt {files} Ni O\n"
    run = run_lammps(tmp_path, commands + then, 1)
    assert run.code != 0
    return " ".join(run.text.split())


def test_members_with_another_cutoff(folder: Path, tmp_path: Path) -> None:
    write_program(Decaying(1.0, 1.0), tmp_path / "short.pt", ATOMS, cutoff=CUTOFF - 1.0)
    text = message_of(folder, tmp_path, "committee", "short.pt")
    assert "must have the same cutoff, but it is 5 of 'test' and 4 of 'test'; use models of one architecture" in text


def test_one_model_twice(folder: Path, tmp_path: Path) -> None:
    """Under another name too: deviations of zero would pass for certainty."""
    shutil.copy(folder / "0.pt", tmp_path / "copy.pt")
    text = message_of(folder, tmp_path, "committee", "copy.pt")
    assert "the models of a committee must differ, but" in text
    assert "copy.pt' have the same content" in text


def test_a_file_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    text = message_of(folder, tmp_path, "committee file no/such/devi.txt", f"{folder}/1.pt")
    assert "the file of deviations 'no/such/devi.txt' must be writable, but: No such file or directory" in text


def test_a_fix_for_steps_without_deviations(folder: Path, tmp_path: Path) -> None:
    """Zeros would pass for certainty; a minimisation has steps too."""
    for then in ("run 2\nrun 4\n", "minimize 0 0 6 20\n"):
        then = "fix dev all pair 3 uip deviation 0\n" + then
        text = message_of(folder, tmp_path, "committee every 2", f"{folder}/1.pt", then)
        assert "fix pair asks for deviations in step 3, but 'committee every 2' has them in multiples of 2 only" in text


def test_other_structures_at_the_same_step(folder: Path, tmp_path: Path) -> None:
    """A script with `run 0` has a line for each structure; a run that is continued has no line twice."""
    scan = "run 0\nrun 0\ndisplace_atoms all random 0.05 0.05 0.05 7\nrun 0\n"
    lines = output_of(folder, tmp_path, "committee file scan.txt", scan, tmp_path / "scan.txt").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0", "0"]
    assert lines[1] != lines[2]


def test_a_step_that_is_reset(folder: Path, tmp_path: Path) -> None:
    """Warnings go on, and deviations that are not known yet are not zero."""
    steps = "run 0\nreset_timestep 5000\nrun 0\nreset_timestep 0\nrun 0\n"
    assert output_of(folder, tmp_path, "committee warn 0.01", steps).count("the committee extrapolates") == 3
    steps = "compute dev all pair uip\nreset_timestep 7\nrun 1\nprint 'UNKNOWN $(c_dev[8]) $(c_dev[14])'\n"
    assert "UNKNOWN nan nan" in output_of(folder, tmp_path, "committee every 10", steps)


def output_of(folder: Path, tmp_path: Path, style: str, steps: str, file: Path | None = None) -> str:
    """The screen of a run on two ranks, or a file that it wrote."""
    write_data(ATOMS, tmp_path / "data.atoms", ["Ni", "O"])
    commands = (
        START.format(units="metal") + f"pair_style uip {style}\npair_coeff * * {folder}/0.pt {folder}/1.pt Ni O\n"
    )
    run = run_lammps(tmp_path, commands + steps, 2)
    assert run.code == 0, run.text[-3000:]
    return file.read_text() if file else run.text
