"""Exports models for the engines: a program that computes energies and dE / d edge_vec, without Python.

    model.pt2   compiled by AOTInductor        model.pt   TorchScript, which needs no C++ compiler

Both come from one trace of the model *and* its gradient, so no engine runs autograd; both read and return
the same tensors, dynamic in every size (a rank may own no atoms), and contain a record at "extra/uip" in
their zip archive: metadata, and self-tests (inputs and reference outputs) that are run at each load.
Read by csrc/record.cpp and `uip.program.reader`.
"""

from __future__ import annotations

import hashlib
import io
import locale
import platform
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.fx import GraphModule

from uip.checkpoint import for_inference, parse_device
from uip.graph.batch import Graph
from uip.models.potential import Potential
from uip.models.readout import evaluate
from uip.nn.fused import plain_form
from uip.ops.kernels import without_kernels
from uip.parallel.library import load_library
from uip.program.reader import load_program
from uip.program.signature import private_key
from uip.program.signature import sign as add_signature
from uip.program.trace import cluster, exact_form, in_order, sample_inputs, scriptable, trace
from uip.schema import FIELDS, SCHEMA_VERSION

PORTABLE = {"cpp.march": "x86-64-v3", "cpp.simdlen": 256}
"""Code for any x86-64 processor with AVX2. By default the compiler writes for the processor it runs on."""
DYNAMIC = {"cpp.dynamic_threads": True}
"""As many threads as the engine sets. By default the number of this machine would be written into the code."""


def export_model(
    model: Potential,
    path: Path | str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    native: bool = False,
    recompute: bool = False,
    sign: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write `model` as a program to `path`, which ends in .pt2 or .pt and is replaced at once or not at all.

    Name, licence and origin come from `model.card`; `model` is not changed.

    Args:
        dtype: "float32" or "float64", of all real tensors; "bfloat16": `for_inference`.
        device: "cpu" or "cuda", where the program will run.
        native: compile for this machine's processor instead of any x86-64 with AVX2.
        recompute: layers keep less for the gradient and compute it again: less memory, more time.
        sign: a private ed25519 key to sign the file with (`uip.program.signature`).
        progress: called with a few words before each step; compiling takes a minute.

    Raises:
        ValueError: another ending, dtype, device or kind of key; `recompute` where a model does not offer it.
        RuntimeError: no C++ compiler, no package `cryptography` to sign with, or a program that differs from the model.
    """
    path, place, report = Path(path), parse_device(device), progress or (lambda step: None)
    if path.suffix not in (".pt2", ".pt"):
        raise ValueError(f"an exported file must be named *.pt2 (compiled) or *.pt (TorchScript), got '{path.name}'")
    if not path.parent.is_dir():
        raise ValueError(f"no such folder: {path.parent}")
    if path.suffix == ".pt2":
        _check_compiler()
    key = None if sign is None else private_key(Path(sign))
    load_library()
    exact = exact_form(model)
    ready = for_inference(deepcopy(exact), dtype=dtype, device=device)
    if recompute:
        if ready.activation_budget is None:
            raise ValueError(f"`recompute` is not offered by {ready.name}; leave it out")
        ready.activation_budget = 0.0
    record = _record(exact, ready, native=native, compiled=path.suffix == ".pt2")
    report("tracing energy and gradient")
    with without_kernels() if path.suffix == ".pt" else nullcontext():  # which cannot store them
        program = trace(ready)
    if place.type == "cpu":
        program = in_order(program)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".uip-export-") as folder:
        file = Path(folder) / path.name
        if path.suffix == ".pt2":
            report("compiling")
            _write_compiled(program, sample_inputs(ready), file, record["inputs"], native=native)
        else:
            report("writing TorchScript")
            _write_script(program, file)
        append_record(file, record)
        report("running the self-test")
        _check_program(file, place)
        if key is not None:
            add_signature(file, key)
        file.replace(path)


def _check_compiler() -> None:
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RuntimeError(
            "writing a .pt2 needs a C++ compiler, but none was found; install g++, or write TorchScript (-o model.pt)"
        ) from error


def _check_program(file: Path, place: torch.device) -> None:
    try:
        load_program(file, device_index=place.index or 0, own=True)
    except ValueError as error:
        raise RuntimeError(
            f"{file.name} was not written, because the program does not reproduce the model: {error}; "
            "try the other format (.pt2, .pt), and report this model and the version of torch"
        ) from error


def _record(exact: Potential, ready: Potential, *, native: bool, compiled: bool) -> dict[str, Any]:
    """What the file says of itself; `Metadata` in csrc/model.h, in plain containers."""
    card = exact.card
    return {
        "schema_version": SCHEMA_VERSION,
        "model": exact.name,
        "name": card.name,
        "head": exact.head,
        "torch_version": str(torch.__version__),
        "dtype": str(ready.dtype).removeprefix("torch."),
        "precision": ready.precision,
        "device": ready.device.type,
        "cutoff": float(exact.cutoff),
        "bond_cutoff": float(exact.bond_cutoff or 0.0),
        "soft": asdict(exact.soft) if exact.soft else {},
        "elements": list(exact.elements),
        "inputs": list(exact.inputs),
        "outputs": list(exact.program_outputs),
        "conservative": exact.conservative,
        "parallel": exact.parallel,
        "instructions": _instructions(native) if compiled else "",
        "licence": card.licence,
        "theory": card.theory,
        "reference": card.reference,
        "provenance": "; ".join(text for text in (card.theory, card.reference) if text),
        "self_tests": [_self_test(cluster(num_atoms, exact), exact, ready) for num_atoms in (8, 5, 1)],
    }


def _instructions(native: bool) -> str:
    """What the compiled code asks of a processor, in the words of `at::get_cpu_capability`."""
    portable = not native and platform.machine() == "x86_64"
    present = torch.backends.cpu.get_cpu_capability()
    return "AVX2" if portable else present if present.startswith("AVX") else ""


def _self_test(graph: Graph, exact: Potential, ready: Potential) -> dict[str, dict[str, Tensor]]:
    """Inputs in the program's dtype and what the exact model says of them."""
    rounded = graph.to(dtype=ready.dtype)
    with plain_form():
        answers = evaluate(exact, rounded.to(dtype=torch.float64))
    return {
        "inputs": {name: rounded.tensors()[name].clone() for name in exact.inputs},
        "outputs": {name: getattr(answers, name).clone() for name in exact.program_outputs},
    }


def _write_compiled(
    program: GraphModule, sample: Sequence[Tensor], file: Path, inputs: Sequence[str], *, native: bool
) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = [{axis: dynamic for axis, size in enumerate(FIELDS[name].shape) if size.isalpha()} for name in inputs]
    options = DYNAMIC | ({} if native or platform.machine() != "x86_64" else PORTABLE)
    with warnings.catch_warnings(), _reading_utf8():
        warnings.simplefilter("ignore")  # torch's compiler warns of its own deprecated parts
        exported = torch.export.export(program, tuple(sample), dynamic_shapes=tuple(shapes))
        torch._inductor.aoti_compile_and_package(exported, package_path=str(file), inductor_configs=options)


@contextmanager
def _reading_utf8() -> Iterator[None]:
    """torch's compiler reads its templates, which are UTF-8, in the encoding of the process. Libraries change that: a
    mixed system of OpenMM on its OpenCL platform left "C" behind."""
    before = locale.setlocale(locale.LC_CTYPE)
    if locale.getpreferredencoding(False).upper() != "UTF-8":
        with suppress(locale.Error):  # not every system has it
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def _write_script(program: GraphModule, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that TorchScript is deprecated; engines still read it
        torch.jit.script(scriptable(program)).save(str(file))


def append_record(file: Path, record: dict[str, Any]) -> None:
    """Append the record to the archive, and a sha256 of all it holds: torch reads archives without checking them."""
    buffer = io.BytesIO()
    torch.save(record, buffer)
    with zipfile.ZipFile(file, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/extra/uip", buffer.getvalue())
        total = hashlib.sha256()
        for name in sorted(archive.namelist()):
            total.update(name.removeprefix(f"{root}/").encode() + archive.read(name))
        archive.writestr(f"{root}/extra/uip_sha256", total.hexdigest())
