"""The second stage for the last layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlrecipes.errors import UserError
from dlrecipes.imbalance.decoupling import (
    CosineLinear,
    LearnableWeightScaling,
    last_linear,
    reinit_classifier,
    tau_normalise,
)
from dlrecipes.parts import build_part, part_spec

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def layer() -> nn.Linear:
    linear = nn.Linear(5, 3)
    with torch.no_grad():
        linear.weight.copy_(
            torch.randn(3, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([[9.0], [3], [1]])
        )
        linear.bias.copy_(torch.tensor([2.0, 1.0, -1.0]))
    return linear


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_tau_normalisation_divides_by_the_length_to_the_tau(tau: float) -> None:
    before = layer()
    after = tau_normalise(layer(), tau)
    torch.testing.assert_close(after(X), before(X).sub(before.bias) / before.weight.norm(dim=1) ** tau)
    if tau == 1:
        torch.testing.assert_close(after.weight.norm(dim=1), torch.ones(3))


def test_tau_normalisation_leaves_a_class_without_weights() -> None:
    linear = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(linear.weight)
    assert not tau_normalise(linear, 1.0).weight.any()


def test_scaling_starts_as_the_layer_and_trains_one_factor_a_class() -> None:
    scaled = LearnableWeightScaling(layer())
    torch.testing.assert_close(scaled(X), layer()(X))
    F.cross_entropy(scaled(X), torch.tensor([0, 1, 2, 2, 2, 2])).backward()
    assert scaled.linear.weight.grad is None
    assert scaled.factor.grad.shape == (3,)
    with torch.no_grad():
        scaled.factor.copy_(torch.tensor([0.5, 1.0, 4.0]))
    expected = torch.tensor([0.5, 1.0, 4.0]) * F.linear(X, layer().weight) + layer().bias
    torch.testing.assert_close(scaled(X), expected)
    torch.testing.assert_close(scaled.merge()(X), expected)
    assert build_part(part_spec(scaled))(X).shape == (6, 3)


def test_a_classifier_starts_anew_and_alone() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    before = [p.clone() for p in net.parameters()]
    found = reinit_classifier(net, seed=3)
    assert found is net[3]
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["3.weight", "3.bias"]
    changed = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
    assert changed == [False] * 4 + [True] * 2
    assert found.weight.abs().max() <= 0.5
    weight = found.weight.clone()
    assert torch.equal(reinit_classifier(net, seed=3).weight, weight)
    assert not torch.equal(reinit_classifier(net, seed=4).weight, weight)


def test_cosines_do_not_know_lengths() -> None:
    cosine = CosineLinear(5, 3, scale=16.0)
    expected = 16 * F.cosine_similarity(X[:, None], cosine.weight[None], dim=-1)
    torch.testing.assert_close(cosine(X), expected)
    with torch.no_grad():
        cosine.weight.mul_(torch.tensor([[7.0], [0.1], [2.0]]))
    torch.testing.assert_close(cosine(3 * X), expected)
    again = build_part(part_spec(cosine))
    again.load_state_dict(cosine.state_dict())
    assert torch.equal(again(X), cosine(X))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="Sequential has no linear layer"):
        last_linear(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(ValueError, match=r"tau=1\.5"):
        tau_normalise(layer(), 1.5)
    with pytest.raises(ValueError, match="scale=0"):
        CosineLinear(2, 2, scale=0)
