"""Exported programs: the numbers of the model on any number of atoms, and files that a reader must refuse."""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import systems
import torch
from conftest import SMALL, random_chgnet
from export_files import COMPILED, exported, source

from uip.graph.batch import Graph, batch
from uip.graph.neighbors import build_graph
from uip.graph.structure import check_structure
from uip.importers.published import PUBLISHED
from uip.models.chgnet import CHGNet
from uip.models.readout import evaluate
from uip.program import trace
from uip.program.reader import load_program
from uip.program.writer import append_record, export_model

kind = pytest.mark.parametrize("suffix", [pytest.param(".pt2", marks=COMPILED), ".pt"])
TWO_LAYERS = replace(SMALL, num_layers=2)
NAMES = ("energy", "node_energy", "edge_grad", "forces", "virial", "magmoms")


def graph_of(name: str) -> Graph:
    atoms = systems.ALL[name]()
    structure = check_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return build_graph(structure, 6.0, 3.0)


def gas(num_atoms: int, spacing: float) -> Graph:
    rng = np.random.default_rng(num_atoms)
    side = int(np.ceil(num_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:num_atoms]
    positions = spacing * grid + rng.uniform(-0.2, 0.2, (num_atoms, 3))
    return build_graph(check_structure(rng.integers(1, 31, num_atoms), positions), 6.0, 3.0)


def assert_same(path: Path, model: CHGNet, graph: Graph, tolerance: float) -> None:
    program = load_program(path)
    outputs = program(graph)
    expected = evaluate(model, graph)
    for name in NAMES:
        want, got = getattr(expected, name), getattr(outputs, name)
        assert got.is_contiguous()
        assert not got.requires_grad
        assert got.dtype == program.dtype
        scale = max(1.0, float(want.abs().max()) if want.numel() else 0.0)
        torch.testing.assert_close(got.double(), want, rtol=0.0, atol=tolerance * scale)


@kind
@pytest.mark.parametrize("name", systems.ALL)
def test_program_equals_model(suffix: str, name: str) -> None:
    assert_same(exported("random", suffix), source("random"), graph_of(name), 1e-12)


@kind
@pytest.mark.parametrize("num_atoms", [1, 2, 3, 5, 60])
@pytest.mark.parametrize("spacing", [2.2, 4.5, 9.0], ids=["angles", "edges only", "no edges"])
def test_any_size(suffix: str, num_atoms: int, spacing: float) -> None:
    assert_same(exported("random", suffix), source("random"), gas(num_atoms, spacing), 1e-12)


@kind
def test_batches(suffix: str) -> None:
    graphs = [graph_of(name) for name in ("nio", "tiny_cell", "skewed_cell")]
    assert_same(exported("random", suffix), source("random"), batch(graphs), 1e-12)


@kind
def test_a_rank_may_own_nothing(suffix: str) -> None:
    program = load_program(exported("random", suffix))
    tensors = gas(1, 1.0).tensors()  # an atom without edges
    inputs = {name: tensors[name] for name in program.inputs}
    inputs |= {name: inputs[name][:0] for name in ("atomic_numbers", "graph_index")}
    outputs = program.handle.run(inputs)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "node_energy": (0,),
        "edge_grad": (0, 3),
        "magmoms": (0,),
    }


@pytest.mark.parametrize("suffix", [pytest.param(".pt2", marks=[pytest.mark.slow, COMPILED]), ".pt"])
def test_float32(suffix: str) -> None:
    path = exported("random", suffix, "float32")
    assert load_program(path).dtype == torch.float32
    for name in ("nio", "skewed_cell", "water"):
        assert_same(path, source("random"), graph_of(name), 1e-5)


@pytest.mark.slow
@kind
@pytest.mark.parametrize("name", systems.ALL)
def test_published_model_in_its_exact_form(suffix: str, name: str) -> None:
    model = deepcopy(source("chgnet-0.3.0"))
    model.edge_basis.published_rounding = model.bond_basis.published_rounding = False
    assert_same(exported("chgnet-0.3.0", suffix), model, graph_of(name), 1e-12)


def test_record_of_a_file() -> None:
    path = exported("random", ".pt")
    program = load_program(path)
    assert program.elements == tuple(range(1, 31))
    assert (program.cutoff, program.bond_cutoff) == (6.0, 3.0)
    assert program.outputs == ("node_energy", "edge_grad", "magmoms")
    assert program.metadata["parallel"] is True
    assert program.metadata["instructions"] == ""
    assert program.metadata["hash"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_model_card_is_in_the_file() -> None:
    card = PUBLISHED["chgnet-0.3.0"].card
    program = load_program(exported("chgnet-0.3.0", ".pt"))
    assert program.card == card
    assert program.metadata["provenance"] == f"{card.theory}; {card.reference}"


def test_model_with_output_bias_is_serial(tmp_path: Path) -> None:
    model = random_chgnet(replace(TWO_LAYERS, norm=False, output_bias=True))
    export_model(model, tmp_path / "model.pt", dtype="float64")
    assert load_program(tmp_path / "model.pt").metadata["parallel"] is False
    assert_same(tmp_path / "model.pt", model, graph_of("nio"), 1e-12)


@COMPILED
def test_compiled_code_is_portable(tmp_path: Path) -> None:
    path = exported("random", ".pt2")
    assert load_program(path).metadata["instructions"] == "AVX2"
    with zipfile.ZipFile(path) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith(".so"))
        code = archive.extract(library, tmp_path)
    listing = subprocess.run(["objdump", "-d", code], capture_output=True, text=True, check=True).stdout
    assert "%ymm" in listing
    assert "%zmm" not in listing


@pytest.fixture(scope="module")
def one_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[CHGNet, CHGNet, list[str], Path]:
    """A model before and after its export, the steps that were reported, and the folder."""
    model = random_chgnet(replace(TWO_LAYERS, published_rounding=True)).float()
    before, steps, folder = deepcopy(model), [], tmp_path_factory.mktemp("export")
    export_model(model, folder / "model.pt", dtype="float64", progress=steps.append)
    return before, model, steps, folder


def test_export_does_not_change_the_model(one_export: tuple[CHGNet, CHGNet, list[str], Path]) -> None:
    before, model, _, _ = one_export
    assert model.edge_basis.published_rounding
    assert model.reference_energy.dtype == torch.float32
    weights = before.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_export_reports_steps_and_leaves_one_file(one_export: tuple[CHGNet, CHGNet, list[str], Path]) -> None:
    _, _, steps, folder = one_export
    assert steps == ["tracing energy and gradient", "writing TorchScript", "running the self-test"]
    assert [path.name for path in folder.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.onnx", {}, r"must be named \*\.pt2 \(compiled\) or \*\.pt \(TorchScript\), got 'model\.onnx'"),
        ("missing/model.pt", {}, "no such folder"),
        ("model.pt", {"dtype": "float16"}, "`dtype` must be 'float32' or 'float64'"),
        ("model.pt", {"device": "tpu"}, "`device` must be"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(source("random"), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(
        RuntimeError, match=r"needs a C\+\+ compiler, but none was found; install g\+\+, or .*-o model\.pt"
    ):
        export_model(source("random"), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


LOCALE = """
import locale, sys
locale.setlocale(locale.LC_ALL, "C")
from uip.program.writer import _reading_utf8
with _reading_utf8():
    import torch._inductor.kernel.mm_grouped  # reads a template that is not ASCII
    assert locale.getpreferredencoding(False) == "UTF-8"
assert locale.setlocale(locale.LC_CTYPE) == "C"
"""


def test_compiling_in_a_process_that_reads_ascii() -> None:
    """OpenMM on OpenCL was seen to leave the locale "C"; the compiler must still read its own files."""
    subprocess.run([sys.executable, "-c", LOCALE], check=True)


def test_a_wrong_program_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a compiler miscompiles; here the program is that of a model with other weights."""
    model, wrong = random_chgnet(TWO_LAYERS), random_chgnet(TWO_LAYERS, seed=1)
    monkeypatch.setattr("uip.program.writer.trace", lambda model: trace.trace(wrong))
    with pytest.raises(RuntimeError, match=r"model\.pt was not written, .* does not reproduce the model.*self-test"):
        export_model(model, tmp_path / "model.pt", dtype="float64")
    assert not list(tmp_path.iterdir())


def edited(path: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy with another record and the checksum that belongs to it, as another version of uip would write it."""
    bare = target.with_name(f"bare{path.suffix}")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(bare, "w") as copy:
        for name in archive.namelist():
            if "extra/uip" not in name:
                copy.writestr(name, archive.read(name))
            elif name.endswith("extra/uip"):
                record = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    change(record)
    append_record(bare, record)
    return bare.rename(target)


def flip_answer(record: dict[str, Any]) -> None:
    record["self_tests"][1]["outputs"]["edge_grad"][2, 1] *= -1.0


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer schema": (
        lambda r: r.update(schema_version=99),
        r"written with schema 99, this build reads \d+; update uip",
    ),
    "other torch": (
        lambda r: r.update(torch_version="2.12.1"),
        r"exported with torch 2\.12\.1, this build runs torch 2\.13",
    ),
    "other device": (lambda r: r.update(device="cuda"), r"exported for cuda and needs GPU 0, but torch sees \d GPUs"),
    "other processor": (
        lambda r: r.update(instructions="AVX1024"),
        "compiled for processors with AVX1024, this one has",
    ),
    "flipped answer": (flip_answer, "fails its self-test: the answers recorded at export are missed by"),
    "no self-test": (lambda r: r.update(self_tests=[]), "must carry a self-test, but has none"),
    "missing entry": (lambda r: r.pop("cutoff"), "its record has no entry 'cutoff'"),
    "no elements": (lambda r: r.update(elements=[]), "its record has an impossible value of 'elements'"),
    "schema of no version": (lambda r: r.update(schema_version=-1), "an impossible value of 'schema_version'"),
    "cutoff": (lambda r: r.update(cutoff=math.nan), "its record has an impossible value of 'cutoff'; run 'uip export'"),
    "bond cutoff": (lambda r: r.update(bond_cutoff=math.nan), "an impossible value of 'bond_cutoff'"),
    "longer bonds": (lambda r: r.update(bond_cutoff=99.0), "an impossible value of 'bond_cutoff'"),
    "card": (lambda r: r.update(theory=3), "is damaged"),
    "fewer outputs": (lambda r: r.update(outputs=["node_energy"]), "must return 1 tensors, got 3"),
    "unknown input": (lambda r: r["inputs"].append("spin"), "input `spin` is missing"),
}


@kind
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_files(tmp_path: Path, suffix: str, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    path = edited(exported("random", suffix), tmp_path / f"model{suffix}", change)
    with pytest.raises(ValueError, match=f"cannot load .*model{suffix}: .*{message}"):
        load_program(path)


@kind
@pytest.mark.parametrize("absent", [(), ("soft", "theory", "reference")], ids=["nothing", "younger entries"])
def test_an_edit_that_changes_nothing_is_accepted(tmp_path: Path, suffix: str, absent: tuple[str, ...]) -> None:
    """What makes the refusals above mean something; older files lack some entries."""
    path = edited(exported("random", suffix), tmp_path / f"model{suffix}", lambda r: [r.pop(key) for key in absent])
    load_program(path)


@kind
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_damage_is_noticed_wherever_it_is(tmp_path: Path, suffix: str, place: float) -> None:
    """Not in the first bytes of an entry: some bits of a deflate header do not change what it decompresses to."""
    whole = exported("random", suffix).read_bytes()
    with zipfile.ZipFile(exported("random", suffix)) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.compress_size)
    for entry in entries[-6:]:
        # a local header has 30 bytes, then the name and an extra field of the length at byte 28
        extra = int.from_bytes(whole[entry.header_offset + 28 : entry.header_offset + 30], "little")
        start = entry.header_offset + 30 + len(entry.filename) + extra
        content = bytearray(whole)
        content[start + int(place * entry.compress_size)] ^= 0x10
        (tmp_path / f"model{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot load .*model{suffix}: it is damaged"):
            load_program(tmp_path / f"model{suffix}")


@kind
@pytest.mark.parametrize("length", [0, 5, 100_000])
def test_truncated_files(tmp_path: Path, suffix: str, length: int) -> None:
    (tmp_path / f"model{suffix}").write_bytes(exported("random", suffix).read_bytes()[:length])
    with pytest.raises(ValueError, match="truncated or of another kind; copy or write it again"):
        load_program(tmp_path / f"model{suffix}")


def test_foreign_files(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is an archive, but not one written by 'uip export'"):
        load_program(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_program(tmp_path / "none.pt2")
    os.mkdir(tmp_path / "folder.pt2")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        load_program(tmp_path / "folder.pt2")


@kind
def test_a_renamed_file_is_read_by_its_content(tmp_path: Path, suffix: str) -> None:
    shutil.copy(exported("random", suffix), tmp_path / "potential.uip")
    load_program(tmp_path / "potential.uip")


@kind
def test_errors_while_running_have_one_line(suffix: str) -> None:
    program = load_program(exported("random", suffix))
    tensors = graph_of("water").tensors()
    inputs = {name: tensors[name] for name in program.inputs}
    with pytest.raises(RuntimeError, match=r"^'unnamed' failed: input `edge_vec` is missing$"):
        program.handle.run({name: value for name, value in inputs.items() if name != "edge_vec"})
    inputs["atomic_numbers"] = torch.cat([inputs["atomic_numbers"]] * 2)
    with pytest.raises(
        RuntimeError, match=r"^'unnamed' failed: uip::ghost_gather: without a communicator .*communicator$"
    ):
        program.handle.run(inputs)
