"""Layers that forget their intermediates: the same first and second derivatives."""

from __future__ import annotations

from pathlib import Path

import small
import torch
from torch import Tensor, nn

from uip.data.dataset import Dataset, GraphSettings, open_store
from uip.loss import LossConfig
from uip.models.chgnet import CHGNet, CHGNetConfig
from uip.ops.recompute import recomputed
from uip.setting import starting_model


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


def test_a_model_learns_the_same(tmp_path: Path) -> None:
    """Gradients of a loss of energy, forces, stress and magmoms, of all weights."""
    from test_loss import loss_of

    settings = GraphSettings(6.0, 3.0, None, tuple(range(1, 31)))
    data = Dataset([open_store(small.write_frames(tmp_path / "four.xyz", 4), settings, tmp_path)])
    torch.manual_seed(0)
    model = CHGNet(CHGNetConfig(**{**small.ARCHITECTURE, "num_layers": 4})).double()
    gradients = []
    for model.recompute in (False, True):
        model.zero_grad()
        loss_of(model, [data.batch(range(4))], LossConfig(stress=1.0, magmoms=1.0)).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-10, atol=1e-14, msg=name)


def test_a_recipe_asks_for_it(tmp_path: Path) -> None:
    data = small.write_frames(tmp_path / "four.xyz", 4)
    asked = [starting_model(small.recipe(tmp_path, data, run={"recompute": choice})) for choice in (False, True)]
    assert [model.recompute for model in asked] == [False, True]
