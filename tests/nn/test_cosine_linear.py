"""Cosines: torch's own, whatever the lengths, in full precision under autocast."""

import pytest
import torch
import torch.nn.functional as F

from dlrecipes.imbalance import CosineLinear as FromImbalance
from dlrecipes.nn import CosineLinear
from dlrecipes.parts import build_part, part_spec


def test_it_has_one_home_and_two_names() -> None:
    assert FromImbalance is CosineLinear


def test_directions_start_with_length_one() -> None:
    torch.manual_seed(0)
    weight = CosineLinear(64, 200).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(200))
    assert weight.mean().abs().item() < 0.005  # no direction is preferred


def test_autocast_leaves_cosines_and_gradients_in_float32() -> None:
    layer, x = CosineLinear(32, 5, scale=30.0), torch.randn(8, 32, requires_grad=True)
    expected = 30 * F.cosine_similarity(x[:, None].double(), layer.weight[None].double(), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        from_half = layer(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(from_half, layer(x.bfloat16().float()), rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    assert (x.grad * x).sum(1).abs().max() < 1e-3  # no gradient along the feature: its length is of no effect


def test_a_checkpoint_rebuilds_it() -> None:
    layer = CosineLinear(4, 3, scale=16.0)
    again = build_part(part_spec(layer))
    assert (again.scale, again.weight.shape) == (16.0, layer.weight.shape)
    with pytest.raises(ValueError, match="scale=0"):
        CosineLinear(2, 2, scale=0)
