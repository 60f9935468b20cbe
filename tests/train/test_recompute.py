"""Layers that forget their intermediates: the same first and second derivatives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import small
import torch
from test_loss import loss_of
from torch import Tensor, nn

from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.models.allscaip import AllScAIP, AllScAIPConfig
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.nn.fused import plain_form
from uip.ops import attention
from uip.ops.recompute import recomputed
from uip.train.loss import LossConfig
from uip.train.setup import initial_model

SHAPE = {"num_elements": 30, "channels": 16, "num_layers": 3, "num_heads": 2, "num_radial": 8, "k": 6.0, "nearest": 12}


class Layer(nn.Module):
    """A layer with an index among its arguments and a weight that one of two paths uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor, index: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.first(x)[index]) * torch.sigmoid(self.second(y))


def test_derivatives_of_a_layer() -> None:
    torch.manual_seed(0)
    layer = Layer().double()
    index = torch.tensor([0, 2, 2, 1])
    x, y = torch.randn(3, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    inputs = (x.requires_grad_(), y.requires_grad_())
    assert torch.equal(recomputed(layer, x, index, y), layer(x, index, y))
    assert torch.autograd.gradcheck(lambda x, y: recomputed(layer, x, index, y), inputs)
    assert torch.autograd.gradgradcheck(lambda x, y: recomputed(layer, x, index, y), inputs)


def test_what_is_kept() -> None:
    """Between forward and backward only arguments and weights are held."""
    layer, index, kept = Layer(), torch.tensor([0, 2, 2, 1]), []
    x, y = torch.randn(3, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        recomputed(layer, x, index, y)
    known = {tensor.data_ptr() for tensor in (x, y, index, *layer.parameters())}
    assert {tensor.data_ptr() for tensor in kept} <= known


def allscaip(**settings: object) -> AllScAIP:
    return AllScAIP(AllScAIPConfig(**SHAPE, **settings))  # type: ignore[arg-type]


MODELS = {
    "chgnet": lambda: CHGNet(CHGNetConfig(**{**small.ARCHITECTURE, "num_layers": 4})),
    "allscaip": lambda: allscaip(angular=True, angular_channels=(4, 2, 2), radial=True),
    "allscaip, direct": lambda: allscaip(readout="direct"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_the_same_and_keeps_less(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of a loss of energy, forces, stress and magmoms, of all weights; with attention in tiles as well."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    settings = GraphSettings(model.cutoff, model.bond_cutoff, model.soft, tuple(range(1, 31)))
    data = Dataset([open_store(small.write_frames(tmp_path / "four.xyz", 4), settings, tmp_path)])
    weights = LossConfig(stress=float(model.conservative), magmoms=float(model.name == "chgnet"))
    gradients, kept = [], []
    for model.recompute in (False, True):
        monkeypatch.setattr(attention, "TILE", 400 if model.recompute else attention.TILE)
        model.zero_grad()
        with plain_form():
            loss, number = held_by(lambda: loss_of(model, [data.batch(range(4))], weights))
        loss.backward()
        kept.append(number)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert kept[1] < 0.6 * kept[0], kept
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-10, atol=1e-14, msg=name)


def test_fused_messages_keep_less(tmp_path: Path) -> None:
    """Whether layers are recomputed makes no difference to them."""
    torch.manual_seed(0)
    model = CHGNet(CHGNetConfig(**{**small.ARCHITECTURE, "num_layers": 4, "channels": 32}))
    settings = GraphSettings(model.cutoff, model.bond_cutoff, model.soft, tuple(range(1, 31)))
    sample = Dataset([open_store(small.write_frames(tmp_path / "four.xyz", 4), settings, tmp_path)]).batch(range(4))
    kept = []
    for plain, model.recompute in ((False, False), (False, True), (True, False)):
        with plain_form() if plain else nullcontext():
            kept.append(held_by(lambda: loss_of(model, [sample.to(dtype=torch.float32)], LossConfig(magmoms=0.0)))[1])
    assert kept[0] == kept[1]
    assert kept[0] < 0.15 * kept[2], kept


@dataclass(eq=False)
class Held:
    """A tensor, for as long as autograd holds on to it."""

    tensor: Tensor


def held_by(function: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What the function returns, and the bytes that its derivative will need."""
    held: weakref.WeakSet[Held] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Held:
        held.add(kept := Held(tensor.detach()))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        value = function()
    storages = [kept.tensor.untyped_storage() for kept in held]
    return value, sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_config_switches_it_on(tmp_path: Path) -> None:
    data = small.write_frames(tmp_path / "four.xyz", 4)
    configs = [
        small.config(tmp_path, data, run={"recompute": choice}, model={"kind": kind, "architecture": shape})
        for kind, shape in (("chgnet", small.ARCHITECTURE), ("allscaip", SHAPE))
        for choice in (False, True)
    ]
    assert [bool(initial_model(config).recompute) for config in configs] == [False, True, False, True]
