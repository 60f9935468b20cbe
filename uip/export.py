"""Writes the files that engines load: a program that gives energies and dE / d edge_vec, without Python.

    model.pt2   compiled by AOTInductor        model.pt   TorchScript, for machines without a compiler's output

Both come from one trace of the model *and* its gradient, so no engine runs autograd; both read and return
the same tensors, dynamic in every size (a rank may own nothing), and carry a record at "extra/uip" in
their zip archive: metadata, and a self-test of inputs and right answers that every reader repeats.
Read by csrc/record.cpp and `uip.program`.
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
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from uip.checkpoint import for_inference, parse_device, parse_dtype
from uip.graph import Graph, batch
from uip.models.heads import energy_and_gradient, read_out
from uip.models.potential import Potential
from uip.neighbors import build_graph, check_structure
from uip.nn.basis import RadialBasis
from uip.parallel import load_library, use_ops
from uip.program import load_program
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
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write `model` as a program to `path`, which ends in .pt2 or .pt and is replaced at once or not at all.

    Name, licence and origin come from `model.card`; `model` is not changed.

    Args:
        dtype: "float32" or "float64", of the arithmetic and of all real tensors; "bfloat16": `for_inference`.
        device: "cpu" or "cuda", where the program will run.
        native: compile for this machine's processor instead of any x86-64 with AVX2.
        recompute: layers keep less for the gradient and compute it again: less memory, more time.
        progress: called with a few words before each step; compiling takes a minute.

    Raises:
        ValueError: another ending, dtype or device; `recompute` where a model does not offer it.
        RuntimeError: no C++ compiler, or the program does not reproduce the model.
    """
    path, place, say = Path(path), parse_device(device), progress or (lambda step: None)
    if path.suffix not in (".pt2", ".pt"):
        raise ValueError(f"an exported file must be named *.pt2 (compiled) or *.pt (TorchScript), got '{path.name}'")
    if not path.parent.is_dir():
        raise ValueError(f"no such folder: {path.parent}")
    if path.suffix == ".pt2":
        _check_compiler()
    load_library()
    exact = _exact_form(model)
    ready = for_inference(deepcopy(exact), dtype=dtype, device=device)
    if recompute:
        if ready.kept_bytes is None:
            raise ValueError(f"`recompute` is not offered by {ready.name}; leave it out")
        ready.kept_bytes = 0.0
    record = _record(exact, ready, native=native, compiled=path.suffix == ".pt2")
    say("tracing energy and gradient")
    program = _trace(ready)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".uip-export-") as folder:
        file = Path(folder) / path.name
        if path.suffix == ".pt2":
            say("compiling")
            _write_compiled(program, _sample(ready), file, record["inputs"], native=native)
        else:
            say("writing TorchScript")
            _write_script(program, file)
        seal(file, record)
        say("running the self-test")
        _check_program(file, place)
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
        load_program(file, device_index=place.index or 0)
    except ValueError as error:
        raise RuntimeError(
            f"{file.name} was not written, because the program does not reproduce the model: {error}; "
            "try the other format (.pt2, .pt), and report this model and the version of torch"
        ) from error


def _exact_form(model: Potential) -> Potential:
    """A float64 copy that evaluates its envelopes exactly, not with the published code's rounding errors."""
    exact = for_inference(deepcopy(model), dtype="float64", device="cpu")
    for module in exact.modules():
        if isinstance(module, RadialBasis):
            module.published_rounding = False
    return exact


def _trace(model: Potential) -> GraphModule:
    """Energy and gradient as one graph of tensor operations, the ops of `uip.parallel` among them."""

    def program(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(model.inputs, tensors, strict=True))
        results = energy_and_gradient(model, inputs) if model.conservative else model(**inputs)._asdict()
        present = {name: value.detach().contiguous() for name, value in results.items() if value is not None}
        return tuple(present[name] for name in model.program_outputs)

    with use_ops():
        return make_fx(program, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*_sample(model))


def _sample(model: Potential) -> list[Tensor]:
    """Inputs to trace with. All sizes differ, ghosts included: equal ones would be taken for one and the same."""
    graph = _on_model(batch([_cluster(num_atoms, model) for num_atoms in (8, 5, 7, 6)]), model)
    tensors = graph.tensors()
    tensors["atomic_numbers"] = torch.cat([graph.atomic_numbers, graph.atomic_numbers[:3]])
    sizes = {
        letter: size
        for name in model.inputs
        for letter, size in zip(FIELDS[name].shape, tensors[name].shape, strict=True)
    }
    assert len(set(sizes.values())) == len(sizes), sizes
    return [tensors[name] for name in model.inputs]


def _cluster(num_atoms: int, model: Potential) -> Graph:
    """A few atoms near the points of a cubic grid, with many elements, bonds and angles."""
    rng = np.random.default_rng(num_atoms)
    spacing = 2.2 if model.soft is None else 0.55 * model.soft.reach  # so that not every edge is a bond
    grid = spacing * np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(2)])
    positions = grid[:num_atoms] + rng.uniform(-0.2, 0.2, (num_atoms, 3))
    elements = rng.choice(model.elements, num_atoms)
    return build_graph(check_structure(elements, positions), model.cutoff, model.bond_cutoff, model.soft)


def _on_model(graph: Graph, model: Potential) -> Graph:
    return graph.to(device=model.device, dtype=model.dtype)


def _record(exact: Potential, ready: Potential, *, native: bool, compiled: bool) -> dict[str, Any]:
    """What the file says of itself; `Metadata` in csrc/model.h, in plain containers."""
    card = exact.card
    return {
        "schema_version": SCHEMA_VERSION,
        "model": exact.name,
        "name": card.name,
        "torch_version": str(torch.__version__),
        "dtype": str(ready.dtype).removeprefix("torch."),
        "arithmetic": ready.arithmetic,
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
        "self_tests": [_self_test(_cluster(num_atoms, exact), exact, ready) for num_atoms in (8, 5, 1)],
    }


def _instructions(native: bool) -> str:
    """What the compiled code asks of a processor, in the words of `at::get_cpu_capability`."""
    portable = not native and platform.machine() == "x86_64"
    present = torch.backends.cpu.get_cpu_capability()
    return "AVX2" if portable else present if present.startswith("AVX") else ""


def _self_test(graph: Graph, exact: Potential, ready: Potential) -> dict[str, dict[str, Tensor]]:
    """Inputs in the program's dtype and what the exact model says of them."""
    rounded = graph.to(dtype=ready.dtype)
    answers = read_out(exact, rounded.to(dtype=torch.float64))
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


# Graphs call overloads and symbolic sizes, TorchScript knows operators by name and plain sizes.
SCRIPT_NAMES = {"aten::sym_size": torch.ops.aten.size, "aten::sym_numel": torch.ops.aten.numel}


def _write_script(program: GraphModule, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that TorchScript is deprecated; engines still read it
        torch.jit.script(_scriptable(program)).save(str(file))


def _scriptable(program: GraphModule) -> GraphModule:
    script = deepcopy(program)
    for node in script.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            packet = node.target.overloadpacket
            node.target = SCRIPT_NAMES.get(packet._qualified_op_name, packet)
    script.recompile()
    return script


def serial_program(model: Potential, dtype: str) -> GraphModule:
    """Energy and gradient on one rank, for TorchScript without libuip: inputs and outputs as of an exported file.

    It stands being frozen and run by the optimising executor, which engines other than ours do.
    """
    load_library()
    program = _trace(_exact_form(model).to(dtype=parse_dtype(dtype)))
    for node in list(program.graph.nodes):
        with program.graph.inserting_before(node):
            other = _serial_form(program.graph, node)
        if other is not None:
            node.replace_all_uses_with(other)
            program.graph.erase_node(node)
    program.recompile()
    return _scriptable(program)


def _serial_form(graph: torch.fx.Graph, node: torch.fx.Node) -> Any:
    """What stands for a node in a serial program; None: the node itself."""
    aten, a = torch.ops.aten, node.args
    name = str(getattr(node.target, "overloadpacket", ""))
    if name == "uip.reverse_edges":
        return graph.call_function(aten.index_select.default, (a[0], 0, a[1]))
    if name.startswith("uip."):
        return a[0]
    # where a factor is a constant, the executor of torch 2.13 is wrong about the shapes of mm and addmm
    if name == "aten.mm":
        return graph.call_function(aten.matmul.default, (a[0], a[1]))
    if name == "aten.addmm":
        product = graph.call_function(aten.matmul.default, (a[1], a[2]))
        return graph.call_function(aten.add.Tensor, (product, a[0]))
    return None


def seal(file: Path, record: dict[str, Any]) -> None:
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
