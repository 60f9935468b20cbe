"""Published potentials: where they are found, their provenance, and the mapping of weight names of CHGNet.

Files are read with torch's restricted reader (tensors and plain containers only): a pickle with code in
it is refused. The packages that contain the files are located, not imported. Weights that are part of this package are
checkpoints of its own, in `uip/weights`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uip.config import suggestion
from uip.importers.fairchem import allscaip_from_fairchem as allscaip_from_fairchem
from uip.importers.torch_files import load_weights, read_tensors, renamed
from uip.models.card import ModelCard
from uip.models.chgnet import CHGNet, CHGNetConfig


@dataclass(frozen=True)
class Published:
    """A published potential."""

    name: str
    package: str
    """The Python package that contains the weights."""
    path: str
    """The file, relative to that package."""
    theory: str
    licence: str
    reference: str
    how_to_get: str

    @property
    def card(self) -> ModelCard:
        return ModelCard(name=self.name, theory=self.theory, licence=self.licence, reference=self.reference)

    def find(self) -> Path | None:
        """The weight file on this machine, None if the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
        files = [folder / self.path for folder in folders]
        return next((file for file in files if file.is_file()), None)


_CHGNET = {
    "package": "chgnet",
    "licence": "modified BSD (UC/LBNL)",
    "reference": "Deng et al., Nature Machine Intelligence 5, 1031 (2023)",
    "how_to_get": "pip install --no-deps chgnet==0.4.2",
}

PUBLISHED = {
    published.name: published
    for published in (
        Published(
            name="chgnet-0.3.0",
            path="pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
            theory="PBE/PBE+U, MPtrj, MP2020-corrected energies",
            **_CHGNET,
        ),
        Published(
            name="chgnet-0.2.0",
            path="pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
            theory="PBE/PBE+U, MPtrj, MP2020-corrected energies",
            **_CHGNET,
        ),
        Published(
            name="chgnet-r2scan",
            path="pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
            theory="r2SCAN, MP-r2SCAN, fine-tuned from 0.3.0",
            **_CHGNET,
        ),
        Published(
            name="saltwater-mini",
            package="uip",
            path="weights/saltwater-mini.ckpt",
            theory="SPC/Fw water, Joung-Cheatham Na+ and Cl-, PME (a force field, no DFT): a demonstration",
            licence="MIT",
            reference="docs/long_range.md",
            how_to_get="pip install --force-reinstall uip",
        ),
    )
}

# (regular expression of the published name, our name). Core and gate are joined to one matrix, in this order.
CHGNET_NAMES = (
    (r"composition_model\.fc\.weight", "reference_energy"),
    (r"atom_embedding\.embedding\.weight", "atom_embedding.weight"),
    (r"bond_basis_expansion\.rbf_expansion_ag\.frequencies", "edge_basis.frequencies"),
    (r"bond_basis_expansion\.rbf_expansion_bg\.frequencies", "bond_basis.frequencies"),
    (r"angle_basis_expansion\.fourier_expansion\.frequencies", "angle_basis.frequencies"),
    (r"bond_embedding\.weight", "edge_embedding.weight"),
    (r"bond_weights_ag\.weight", "edge_weight.weight"),
    (r"bond_weights_bg\.weight", "bond_weight.weight"),
    (r"angle_embedding\.weight", "angle_embedding.weight"),
    (r"atom_conv_layers\.(\d+)\.twoBody_atom\.(.+)", r"atom_updates.\1.message.\2"),
    (r"atom_conv_layers\.(\d+)\.mlp_out\.layers\.1\.(.+)", r"atom_updates.\1.output.\2"),
    (r"bond_conv_layers\.(\d+)\.twoBody_bond\.(.+)", r"bond_updates.\1.message.\2"),
    (r"bond_conv_layers\.(\d+)\.mlp_out\.layers\.1\.(.+)", r"bond_updates.\1.output.\2"),
    (r"angle_layers\.(\d+)\.twoBody_bond\.(.+)", r"angle_updates.\1.message.\2"),
    (r"site_wise\.(.+)", r"magmom.\1"),
    (r"readout_norm\.(.+)", r"readout_norm.\1"),
)
GATED_NAMES = (
    (r"(.*message)\.mlp_(core|gate)\.layers\.[01]\.(.+)", r"\1.first.\3.\2"),
    (r"(.*message)\.mlp_(core|gate)\.layers\.3\.(.+)", r"\1.\2.\3"),
    (r"(.*message)\.bn1\.(.+)", r"\1.core_norm.\2"),
    (r"(.*message)\.bn2\.(.+)", r"\1.gate_norm.\2"),
)


def chgnet_from_published(state: Mapping[str, Tensor], model_args: Mapping[str, Any]) -> CHGNet:
    """A CHGNet from the state dict and `model_args` of a chgnet 0.2 - 0.4 checkpoint, float32.

    Raises:
        ValueError: an unsupported architecture setting, or missing or misshapen weights.
    """
    config = _chgnet_config(model_args, state)
    tensors: dict[str, Tensor] = {}
    readout_layers = sorted({int(name.split(".")[2]) for name in state if name.startswith("mlp.layers.")})
    for name, value in state.items():
        if name.startswith("mlp.layers."):
            _, _, layer, kind = name.split(".")
            # published: Linear, SiLU, Linear, SiLU, ..., Dropout, Linear; here without dropout
            ours: str | None = f"readout.{2 * readout_layers.index(int(layer))}.{kind}"
        else:
            ours = renamed(name, CHGNET_NAMES)
        if ours is None:
            raise ValueError(f"the checkpoint has weights '{name}' that no published CHGNet has")
        tensors[renamed(ours, GATED_NAMES) or ours] = value
    tensors["reference_energy"] = tensors["reference_energy"].flatten()
    for name in [name for name in tensors if name.endswith(".core") and ".first." in name]:
        core, gate = tensors.pop(name), tensors.pop(name.removesuffix("core") + "gate")
        tensors[name.removesuffix(".core")] = torch.cat([core, gate])
    # the result of the last angle update of the published model is not used
    dead = f"angle_updates.{config.num_layers - 2}."
    model = CHGNet(config)
    load_weights(model, {name: value for name, value in tensors.items() if not name.startswith(dead)})
    return model.eval()


def _chgnet_config(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> CHGNetConfig:
    fixed = {
        "update_bond": True,
        "update_angle": True,
        "mlp_first": True,
        "non_linearity": "silu",
        "angle_layer_hidden_dim": 0,
        "conv_norm": None,
    }
    for key, value in fixed.items():
        if args.get(key, value) != value:
            raise ValueError(f"a CHGNet checkpoint must have {key} = {value!r} to be read, got {args[key]!r}")
    widths = {args.get(key, 64) for key in ("atom_fea_dim", "bond_fea_dim", "angle_fea_dim", "atom_conv_hidden_dim")}
    if len(widths) != 1:
        raise ValueError(f"all feature widths of a CHGNet checkpoint must agree to be read, got {sorted(widths)}")
    hidden = args.get("mlp_hidden_dims", (64, 64, 64))
    return CHGNetConfig(
        num_elements=state["atom_embedding.embedding.weight"].shape[0],
        channels=widths.pop(),
        num_layers=args["n_conv"],
        cutoff=float(args["atom_graph_cutoff"]),
        bond_cutoff=float(args["bond_graph_cutoff"]),
        num_radial=args["num_radial"],
        num_angular=args["num_angular"],
        envelope_exponent=int(args["cutoff_coeff"]),
        num_readout=1 if isinstance(hidden, int) else len(hidden),
        norm=args.get("gMLP_norm") == "layer",
        output_bias="atom_conv_layers.0.mlp_out.layers.1.bias" in state,
        published_rounding=True,
    )


def published_file(name: str) -> Path:
    """The weight file of the published potential `name`, see `PUBLISHED`.

    Raises:
        ValueError: unknown name.
        FileNotFoundError: the weights are not on this machine; the message says how to get them.
    """
    if name not in PUBLISHED:
        raise ValueError(f"unknown model '{name}'{suggestion(name, PUBLISHED)}")
    published = PUBLISHED[name]
    path = published.find()
    if path is None:
        raise FileNotFoundError(f"the weights of '{name}' are not installed; run '{published.how_to_get}'")
    return path


def is_chgnet(content: Any) -> bool:
    """Whether the content of a torch file is a published CHGNet checkpoint."""
    model = content.get("model") if isinstance(content, Mapping) else None
    return isinstance(model, Mapping) and {"state_dict", "model_args"} <= model.keys()


def chgnet_from_file(path: Path) -> CHGNet:
    """A CHGNet from a checkpoint file written by chgnet 0.2 - 0.4."""
    content = read_tensors(path)
    if not is_chgnet(content):
        raise ValueError(f"{path} is not a CHGNet checkpoint: it must hold model.state_dict and model.model_args")
    model = chgnet_from_published(content["model"]["state_dict"], content["model"]["model_args"])
    model.card = ModelCard(name=path.name.removesuffix(".pth.tar"))
    return model
