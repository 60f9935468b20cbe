"""Compiled programs on several ranks: one rank of each computer unpacks the file, nothing is left, errors end all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from export_files import COMPILED, exported
from lammps_run import BIN, run_lammps

pytestmark = COMPILED

DECK = """units metal
boundary p p p
region r block 0 9 0 9 0 9
create_box 1 r
create_atoms 1 single 1 1 1
mass 1 58.69
pair_style uip
pair_coeff * * {file} Ni
run 0
clear
region r block 0 9 0 9 0 9
create_box 1 r
pair_style uip
pair_coeff * * {file} Ni
"""

WATCH = """
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

// A line for each folder of a program, written at once.
static void note(const char *path) {
  const char *name = strrchr(path, '/'), *log = getenv("WATCH_LOG");
  if (log == nullptr || name == nullptr || strncmp(name, "/uip-", 5) != 0) return;
  const int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  const std::string line = std::string(getenv("PMI_RANK")) + "\\n";
  if (write(file, line.data(), line.size()) < 0) abort();
  close(file);
}

extern "C" char *mkdtemp(char *path) {
  note(path);
  return reinterpret_cast<char *(*)(char *)>(dlsym(RTLD_NEXT, "mkdtemp"))(path);
}

extern "C" int mkdir(const char *path, mode_t mode) {
  note(path);
  return reinterpret_cast<int (*)(const char *, mode_t)>(dlsym(RTLD_NEXT, "mkdir"))(path, mode);
}

// On the rank WATCH_BLIND the record in such a folder cannot be read.
extern "C" FILE *fopen64(const char *path, const char *mode) {
  const char *blind = getenv("WATCH_BLIND"), *rank = getenv("PMI_RANK");  // mpiexec itself has no rank
  const bool is_blind = blind != nullptr && rank != nullptr && strcmp(blind, rank) == 0;
  if (is_blind && strstr(path, "/uip-") && strstr(path, "/record")) return nullptr;
  return reinterpret_cast<FILE *(*)(const char *, const char *)>(dlsym(RTLD_NEXT, "fopen64"))(path, mode);
}
extern "C" FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that is loaded before all others: which rank makes a folder for a program."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "watch.cpp").write_text(WATCH)
    subprocess.run(["c++", "-std=c++17", "-shared", "-fPIC", "watch.cpp", "-o", "watch.so"], cwd=folder, check=True)
    return str(folder / "watch.so")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (scratch := tmp_path / "scratch").mkdir()
    return scratch


@pytest.mark.parametrize(
    ("num_ranks", "computers", "unpacking"),
    [(1, {}, ["0"]), (2, {}, ["0"]), (4, {}, ["0"]), (2, {"MPIR_CVAR_NOLOCAL": "1"}, ["0", "1"])],
    ids=["1 rank", "2 ranks", "4 ranks", "2 computers"],
)
def test_one_rank_of_a_computer_unpacks(
    num_ranks: int, computers: dict[str, str], unpacking: list[str], tmp_path: Path, scratch: Path, watch: str
) -> None:
    """MPICH can take each rank for a computer. The deck loads the file twice."""
    variables = {"LD_PRELOAD": watch, "WATCH_LOG": str(tmp_path / "log"), "TMPDIR": str(scratch), **computers}
    run = run_lammps(tmp_path, DECK.format(file=exported("random", ".pt2")), num_ranks, variables=variables)
    assert run.code == 0, run.text
    assert sorted((tmp_path / "log").read_text().split()) == sorted(2 * unpacking)
    assert not list(scratch.iterdir())


def test_a_rank_that_does_not_see_the_folder(tmp_path: Path, scratch: Path, watch: str) -> None:
    variables = {"LD_PRELOAD": watch, "WATCH_BLIND": "1", "TMPDIR": str(scratch)}
    run = run_lammps(tmp_path, DECK.format(file=exported("random", ".pt2")), 3, variables=variables, limit=60)
    text = " ".join(run.text.split())
    assert run.code != 0
    assert "pair_coeff: rank 1 cannot use" in text
    assert "is not seen by this one; set TMPDIR to a folder that all of them see" in text
    assert text.count("ERROR: ") == 1
    assert not list(scratch.iterdir())


def test_a_file_that_the_first_rank_refuses(tmp_path: Path, scratch: Path) -> None:
    """The others wait for no folder."""
    damaged = tmp_path / "model.pt2"
    damaged.write_bytes(exported("random", ".pt2").read_bytes()[:-100])
    run = run_lammps(tmp_path, DECK.format(file=damaged), 3, variables={"TMPDIR": str(scratch)}, limit=60)
    assert run.code != 0
    assert "rank 0 cannot use" in run.text
    assert "truncated or of another kind" in " ".join(run.text.split())
    assert not list(scratch.iterdir())


def test_ranks_that_trust_other_keys(tmp_path: Path) -> None:
    """One rank checks the file for all, so all must ask for the same."""
    other = (":", "-n", "1", "-env", "UIP_TRUSTED", "some.pub", str(BIN / "lmp"), "-in", "in.deck")
    run = run_lammps(tmp_path, DECK.format(file=exported("random", ".pt2")), 1, *other, limit=60)
    text = " ".join(run.text.split())
    assert run.code != 0
    assert "must be the same on all ranks, but is not set on rank 0 and 'some.pub' on rank 1; pass it to all" in text
