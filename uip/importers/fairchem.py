"""AllScAIP from fairchem: converts weights, settings and inference checkpoints.

`fairchem_checkpoint` reads the pickled file with torch's restricted reader: only the fields of its one dataclass are
read, no code is executed, and fairchem need not be installed. Names are those of fairchem-core 2.24.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uip.config import from_dict, suggestion
from uip.importers.torch_files import Names, load_weights, read_tensors, renamed
from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.models.card import ModelCard

NEAREST_BEYOND_K = 20
"""fairchem computes ranks among the k + 20 nearest neighbours."""

# fairchem setting: (our name, default of fairchem; None: no default).
SETTINGS: dict[str, tuple[str, Any]] = {
    "max_num_elements": ("num_elements", 110),
    "hidden_size": ("channels", None),
    "num_layers": ("num_layers", None),
    "atten_num_heads": ("num_heads", None),
    "use_node_path": ("node_attention", True),
    "use_freq_mask": ("angular", True),
    "freequency_list": ("angular_channels", (20, 10, 4, 10, 20)),
    "use_sincx_mask": ("radial", True),
    "edge_distance_expansion_size": ("num_radial", 512),
    "knn_k": ("k", 30),
    "max_radius": ("cutoff", 6.0),
}
# Settings that change the energy, with the only supported value: that of all published models.
FIXED: dict[str, Any] = {
    "activation": "gelu",
    "normalization": "rmsnorm",
    "distance_function": "gaussian",
    "energy_reduce": "sum",
    "use_envelope": True,
    "knn_soft": True,
    "knn_use_low_mem": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "node_direction_expansion_size": 10,
    "edge_direction_expansion_size": 6,
    "attn_num_freq": 32,
    "ffn_hidden_layer_multiplier": 2,
    "output_hidden_layer_multiplier": 2,
}
# Settings that affect only how fairchem computes, trains or pads, and settings that fairchem does not read.
IGNORED = (
    *("model", "dataset_list", "max_atoms", "max_batch_size", "knn_pad_size", "atten_name", "float32_matmul_precision"),
    *("regress_forces", "regress_stress", "use_compile", "use_padding", "single_system_no_padding"),
    *("use_chunked_graph", "graph_chunk_size", "preprocess_on_cpu", "use_residual_scaling"),
    *("mlp_dropout", "atten_dropout", "node_ffn_dropout", "edge_ffn_dropout"),
    *("scalar_output_dropout", "vector_output_dropout"),
    *("use_pbc", "cutoff_radius", "max_neighbors", "max_neighbors_pad_size"),
)

_BLOCK = r"transformer_blocks\.(\d+)\."
_ROW = _BLOCK + r"neighborhood_attention\."
WEIGHTS: Names = (
    (r"input_block\.atomic_embedding\.(.+)", r"embedding.element.\1"),
    (r"input_block\.node_direction_embedding\.0\.(.+)", r"embedding.order.\1"),
    (r"input_block\.node_norm\.(.+)", r"embedding.norm.\1"),
    (r"input_block\.node_linear\.0\.(.+)", r"embedding.atom.\1"),
    (r"input_block\.charge_embedding\.rand_emb\.(.+)", r"embedding.charge.\1"),
    (r"input_block\.spin_embedding\.rand_emb\.(.+)", r"embedding.spin.\1"),
    (r"input_block\.charge_spin_linear\.0\.(.+)", r"embedding.charge_spin.\1"),
    (r"input_block\.edge_attr_linear\.0\.(.+)", r"embedding.bond.\1"),
    (r"input_block\.edge_feature_linear\.0\.(.+)", r"embedding.token.\1"),
    (_ROW + r"src_attn\.attn_in_proj_([qkv])\.(.+)", r"blocks.\1.source.qkv.\3.\2"),
    (_ROW + r"src_attn\.attn_out_proj\.(.+)", r"blocks.\1.source.output.\2"),
    (_ROW + r"src_attn_norm\.(.+)", r"blocks.\1.source.norm.\2"),
    (_ROW + r"src_attn_res_scale", r"blocks.\1.source.scale"),
    (_ROW + r"dst_attn\.attn_in_proj_([qkv])\.(.+)", r"blocks.\1.destination.qkv.\3.\2"),
    (_ROW + r"dst_attn\.attn_out_proj\.(.+)", r"blocks.\1.destination.output.\2"),
    (_ROW + r"dst_attn_norm\.(.+)", r"blocks.\1.destination.norm.\2"),
    (_ROW + r"dst_attn_res_scale", r"blocks.\1.destination.scale"),
    (_BLOCK + r"edge_ffn\.ffn\.0\.0\.(.+)", r"blocks.\1.bond_ffn.first.\2"),
    (_BLOCK + r"edge_ffn\.ffn\.1\.0\.(.+)", r"blocks.\1.bond_ffn.second.\2"),
    (_BLOCK + r"edge_ffn\.ffn_norm\.(.+)", r"blocks.\1.bond_ffn.norm.\2"),
    (_BLOCK + r"edge_ffn\.ffn_res_scale", r"blocks.\1.bond_ffn.scale"),
    (_BLOCK + r"node_attention\.attn_in_proj_([qkv])\.(.+)", r"blocks.\1.node.qkv.\3.\2"),
    (_BLOCK + r"node_attention\.attn_out_proj\.(.+)", r"blocks.\1.node.output.\2"),
    (_BLOCK + r"node_attention\.node_norm\.(.+)", r"blocks.\1.node.norm.\2"),
    (_BLOCK + r"node_attention\.node_attn_res_scale", r"blocks.\1.node.scale"),
    (_BLOCK + r"node_attention\.radial_weight", r"blocks.\1.node.radial_weight"),
    (_BLOCK + r"node_ffn\.ffn\.0\.0\.(.+)", r"blocks.\1.node_ffn.first.\2"),
    (_BLOCK + r"node_ffn\.ffn\.1\.0\.(.+)", r"blocks.\1.node_ffn.second.\2"),
    (_BLOCK + r"node_ffn\.ffn_norm\.(.+)", r"blocks.\1.node_ffn.norm.\2"),
    (_BLOCK + r"node_ffn\.ffn_res_scale", r"blocks.\1.node_ffn.scale"),
)
# `{part}` of a packed matrix is joined in the order query, key, value.
_PACKED = re.compile(r"(.+\.qkv\.(?:weight|bias))\.q")
_HEAD = re.compile(r"output_heads\.(.+)\.(energy|force)_ffn\..+")


def allscaip_from_fairchem(
    state: Mapping[str, Tensor], config: Mapping[str, Any], *, elements: tuple[int, ...] = ()
) -> AllScAIP:
    """An AllScAIP from the state dict and the backbone's settings of fairchem-core 2.24, `smooth = False`, float32.

    Args:
        state: names with or without "module." and "backbone." before them.
        config: as in fairchem's YAML; settings left out have fairchem's defaults.
        elements: atomic numbers that the model supports; empty: all.

    Raises:
        ValueError: an unknown or unsupported setting, or missing, unknown or misshapen weights.
    """
    state = {re.sub(r"^(module\.)*(backbone\.)?", "", name): value for name, value in state.items()}
    state.pop("n_averaged", None)
    heads = _heads(state)
    direct = bool(config.get("direct_forces", "force" in heads))
    _check_heads(heads, direct)
    model = AllScAIP(replace(_config(config), readout="direct" if direct else "gradient", elements=elements))
    own = {name: getattr(model, name) for name in ("reference_energy", "energy_scale")}
    load_weights(model, {**_joined(_named(state, heads)), **own})
    return model.eval()


def _config(config: Mapping[str, Any]) -> AllScAIPConfig:
    known = {*SETTINGS, *FIXED, *IGNORED, "direct_forces"}
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"unknown key '{key}' in the settings of an AllScAIP of fairchem{suggestion(key, known)}")
        if key in FIXED and value != FIXED[key]:
            raise ValueError(
                f"'{key}' must be {FIXED[key]!r}, as in every published AllScAIP, got {value!r}; "
                "this model is not supported, run it with fairchem"
            )
    missing = [key for key, (_, default) in SETTINGS.items() if default is None and key not in config]
    if missing:
        raise ValueError(f"the settings of an AllScAIP of fairchem must have {', '.join(map(repr, missing))}")
    ours = {name: config.get(key, default) for key, (name, default) in SETTINGS.items()}
    ours["radial"] = ours["radial"] and ours["node_attention"]
    checked = from_dict(AllScAIPConfig, ours)
    return replace(
        checked,
        num_elements=checked.num_elements - 1,  # fairchem counts a row for element 0
        nearest=int(checked.k) + NEAREST_BEYOND_K,
        smooth=False,
    )


def _heads(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the heads that predict energies and forces, by "energy" and "force"."""
    heads: dict[str, list[str]] = {}
    for match in filter(None, map(_HEAD.fullmatch, state)):
        names = heads.setdefault(match[2], [])
        if match[1] not in names:
            names.append(match[1])
    return heads


def _check_heads(heads: Mapping[str, list[str]], direct: bool) -> None:
    for kind, number in (("energy", 1), ("force", int(direct))):
        found = heads.get(kind, [])
        if len(found) != number:
            kinds = "direct_forces = true" if direct else "direct_forces = false"
            raise ValueError(
                f"a checkpoint with {kinds} must have {number} heads with weights '{kind}_ffn', got "
                f"{', '.join(found) or 'none'}; take the settings and the weights from one model"
            )


def _named(state: Mapping[str, Tensor], heads: Mapping[str, list[str]]) -> dict[str, Tensor]:
    table = WEIGHTS + tuple(
        entry
        for kind, (head,) in heads.items()
        for entry in (
            (rf"output_heads\.{re.escape(head)}\.node_norm\.(.+)", rf"{kind}.norm.\1"),
            (rf"output_heads\.{re.escape(head)}\.{kind}_ffn\.0\.0\.(.+)", rf"{kind}.first.\1"),
            (rf"output_heads\.{re.escape(head)}\.{kind}_ffn\.1\.0\.(.+)", rf"{kind}.second.\1"),
        )
    )
    tensors = {}
    for name, value in state.items():
        ours = renamed(name, table)
        if ours is None:
            raise ValueError(f"the checkpoint has weights '{name}' that no published AllScAIP has")
        tensors[ours] = value
    return tensors


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join query, key and value matrices to one matrix each."""
    joined = {}
    for name, value in tensors.items():
        packed = _PACKED.fullmatch(name)
        if packed:
            parts = [tensors.get(f"{packed[1]}.{part}") for part in "qkv"]
            joined[packed[1]] = torch.cat([part for part in parts if part is not None])
        elif not re.fullmatch(r".+\.qkv\..+\.[kv]", name):
            joined[name] = value
    return joined


class _Checkpoint:
    """Receives the fields of fairchem's MLIPInferenceCheckpoint."""

    model_config: Any = None
    model_state_dict: Any = None
    ema_state_dict: Any = None
    tasks_config: Any = None


STAND_INS = ((_Checkpoint, "fairchem.core.units.mlip_unit.api.inference.MLIPInferenceCheckpoint"),)
LICENCE = "not stated in the file; FAIR Chemistry licence for files from Meta"
REFERENCE = "Qu, Wood, Krishnapriyan, Ulissi, arXiv:2603.06567 (2026)"


def fairchem_checkpoint(path: Path | str, *, task: str | None = None) -> AllScAIP:
    """The AllScAIP in an inference checkpoint of fairchem, as its calculator runs it: EMA weights, normaliser and
    element references of the task.

    Args:
        task: the data set, e.g. "omol"; needed if the file has several.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, of another kind, a pickle with code, another architecture, an unknown task.
    """
    path = Path(path)
    content = read_tensors(path, STAND_INS)
    if not isinstance(content, _Checkpoint):
        raise ValueError(
            f"{path} must be an inference checkpoint of fairchem, but is another torch file; checkpoints of uip and "
            "of chgnet need no import"
        )
    settings, state = _backbone(content, path), content.ema_state_dict or content.model_state_dict
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a state dict of tensors as 'ema_state_dict', but holds something else")
    name, energy_task, scale = _chosen_task(content.tasks_config, task)
    reference = _element_references(energy_task)
    model = allscaip_from_fairchem(state, settings)
    _give_references(model, reference, scale)
    known = tuple(number for number in model.elements if float(model.reference_energy[number]) != 0.0)
    model.config = replace(model.config, elements=known)
    theory = f"fairchem task '{name}'; smooth = false: energy and forces jump where a neighbour enters or leaves"
    model.card = ModelCard(name=path.stem, theory=theory, licence=LICENCE, reference=REFERENCE)
    return model


def _backbone(content: _Checkpoint, path: Path) -> dict[str, Any]:
    settings = content.model_config.get("backbone") if isinstance(content.model_config, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path} must describe its model as fairchem-core 2.24 does, with a 'backbone' in 'model_config'; "
            "it was written by another version"
        )
    architecture = str(settings.get("model"))
    if architecture.rpartition(".")[2] not in ("AllScAIPBackbone", "AllScAIP_backbone"):
        raise ValueError(f"{path} must hold an AllScAIP, got '{architecture}'; run other models with fairchem")
    return settings


def _chosen_task(tasks: Any, wanted: str | None) -> tuple[str, dict[str, Any], float]:
    """Name and settings of the energy task, and the scale of the model's energies in eV."""
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError("'tasks_config' of a fairchem checkpoint must be a list of tables; another version wrote it")
    energies = {name: task for task in tasks if task.get("property") == "energy" for name in task.get("datasets", [])}
    if wanted is None and len(energies) != 1:
        raise ValueError(
            f"the checkpoint has the tasks {', '.join(sorted(energies)) or 'none'}; select one with --task"
        )
    name = wanted if wanted is not None else next(iter(energies))
    if name not in energies:
        raise ValueError(f"unknown task '{name}'{suggestion(name, energies)}")
    forces = [task for task in tasks if task.get("property") == "forces" and name in task.get("datasets", [])]
    scales = {_scale(task) for task in (energies[name], *forces)}
    if len(scales) != 1:
        raise ValueError(f"energies and forces must have one 'rmsd', got {sorted(scales)}; run this with fairchem")
    return name, energies[name], scales.pop()


def _scale(task: Mapping[str, Any]) -> float:
    normalizer = task.get("normalizer") or {}
    mean, rmsd = (_numbers(normalizer.get(key, default), key).item() for key, default in (("mean", 0.0), ("rmsd", 1.0)))
    if mean != 0.0:
        raise ValueError(
            f"the normaliser of '{task.get('name')}' must have mean 0, got {mean}: a constant per structure is not a "
            "sum over atoms; run this with fairchem"
        )
    return rmsd


def _element_references(task: Mapping[str, Any]) -> Tensor:
    """Element reference energies by atomic number from 0, float64 eV; empty if the task has none."""
    values: Any = task.get("element_references")
    # hydra: a class with its argument, by name or by position
    while isinstance(values, dict) and ("element_references" in values or "_args_" in values):
        values = values["element_references"] if "element_references" in values else values["_args_"][0]
    return _numbers([] if values is None else values, "element_references").flatten()


def _numbers(values: Any, what: str) -> Tensor:
    """As float64."""
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"'{what}' of a task must be numbers, got {str(values)[:80]}") from error
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"'{what}' of a task must be finite numbers, got {str(values)[:80]}")
    return numbers


def _give_references(model: AllScAIP, reference: Tensor, scale: float) -> None:
    number = min(reference.shape[0], model.reference_energy.shape[0])
    model.reference_energy[:number] = reference[:number]
    model.energy_scale.fill_(scale)
