from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from dlrecipes.errors import UserError
from dlrecipes.nn import StagePlan
from dlrecipes.nn.init.audit import init_audit
from dlrecipes.nn.init.weights import init_weights


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(act: type[nn.Module] = nn.ReLU, depth: int = 20, scheme: str = "auto", seed: int = 0) -> nn.Sequential:
    net = nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(64, 64), act())], nn.Linear(64, 10))
    init_weights(net, scheme, generator=seeded(seed))
    return net


X = torch.randn(32, 64, generator=seeded(9))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.SELU, lambda: nn.ReLU(inplace=True)])
def test_healthy_networks_are_left_in_peace(act: type[nn.Module], seed: int) -> None:
    audit = init_audit(plain(act, seed=seed), X)
    assert audit.first is None
    assert audit.verdict.level == "ok"


@pytest.mark.parametrize("zero_init", [False, True])
def test_healthy_residual_networks_are_left_in_peace(zero_init: bool) -> None:
    images = torch.randn(4, 3, 32, 32, generator=seeded())
    for net in (StagePlan(early_pool=False, zero_init=zero_init).build(num_classes=10), resnet18(num_classes=10)):
        assert init_audit(net, images).first is None


@pytest.mark.parametrize(
    ("factor", "where", "title"),
    [(1e4, 8, "the signal explodes"), (1e-4, 8, "the signal dies"), (1e4, 0, "the signal explodes")],
)
def test_a_planted_layer_is_named(factor: float, where: int, title: str) -> None:
    net = plain()
    with torch.no_grad():
        net[where].weight.mul_(factor)
    audit = init_audit(net, X)
    assert (audit.first, audit.verdict.title) == (str(where), title)
    assert f"'{where}'" in audit.verdict.evidence


def test_units_that_no_sample_wakes_are_the_layers_in_front_of_them() -> None:
    net = plain()
    with torch.no_grad():
        net[10].bias.fill_(-1000)
    audit = init_audit(net, X, limit=1e4)
    assert (audit.first, audit.verdict.title) == ("10", "the signal dies")


def test_the_same_answer_for_all_is_dead_however_large() -> None:
    net = plain()
    with torch.no_grad():
        net[10].weight.zero_()
        net[10].bias.copy_(torch.randn(64, generator=seeded()))
    audit = init_audit(net, X)
    assert audit.rows[-1].size > 0.1
    assert (audit.first, audit.verdict.title) == ("10", "the signal dies")


def test_a_gradient_that_dies_or_explodes_is_named_by_the_layer_that_it_stops_at() -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * Scaled.factor

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Scaled.apply(x)

    net = plain()
    net.insert(8, Gate())  # behind layer 6 and its activation
    for Scaled.factor, title in ((1e-4, "the gradient dies"), (1e4, "the gradient explodes")):
        audit = init_audit(net, X)
        assert (audit.first, audit.verdict.title) == ("6", title)


def test_not_a_number_is_named_where_it_begins() -> None:
    net = plain()
    with torch.no_grad():
        net[6].weight[0, 0] = torch.nan
    audit = init_audit(net, X)
    assert (audit.first, audit.verdict.title) == ("6", "the signal explodes")


def test_a_head_that_starts_as_zero_is_no_illness() -> None:
    net = plain()
    nn.init.zeros_(net[-1].weight)
    audit = init_audit(net, X)
    assert audit.first is None
    assert "second step" in audit.verdict.evidence


def test_numbers_are_those_of_one_layer_by_hand() -> None:
    net = nn.Sequential(nn.Linear(64, 32, bias=False), nn.Linear(32, 4, bias=False)).double()
    x = X.double()
    audit = init_audit(net, x, lambda output: output.square().sum())
    one, two = (layer.weight.detach() for layer in net)
    hidden = x @ one.T
    gradient = 2 * (hidden @ two.T)
    first, last = audit.rows
    assert first.size == pytest.approx(float(hidden.square().mean().sqrt() / x.square().mean().sqrt()), rel=1e-5)
    spread = hidden.var(0, unbiased=False).mean() / x.var(0, unbiased=False).mean()
    assert first.differs**2 == pytest.approx(float(spread), rel=1e-5)
    assert last.incoming == pytest.approx(first.differs)
    back = float((gradient @ two).norm() / gradient.norm())
    assert (first.gradient, last.gradient) == (pytest.approx(back, rel=1e-5), 1)


def test_nothing_is_left_behind() -> None:
    net = StagePlan(depth=(1,), width=(8,), early_pool=False).build(num_classes=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    init_audit(net.train(), torch.randn(4, 3, 8, 8, generator=seeded()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert all(m.training and not m._forward_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_frozen_networks_can_be_looked_at() -> None:
    assert init_audit(plain().requires_grad_(False), X).rows[0].gradient > 0


@pytest.mark.parametrize(
    ("batch", "why"), [(X[:1], "at least 2"), (X[:1].expand(4, -1), "all the same"), ("text", "at least 2")]
)
def test_batches_that_show_nothing_are_refused(batch: object, why: str) -> None:
    with pytest.raises(UserError, match=why):
        init_audit(plain(depth=1), batch)


def test_limit_and_model_are_checked() -> None:
    with pytest.raises(ValueError, match="limit=1"):
        init_audit(plain(depth=1), X, limit=1)
    with pytest.raises(UserError, match="no linear"):
        init_audit(nn.ReLU(), X)


def test_table_marks_the_layer() -> None:
    audit = init_audit(plain(scheme="glorot"), X)
    assert audit.table().row_count == 21
    assert "init_weights" in str(audit)
