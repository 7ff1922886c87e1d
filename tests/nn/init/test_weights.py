from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torchvision.models import resnet18

from dlrecipes.errors import UserError
from dlrecipes.nn import ResidualBlock
from dlrecipes.nn.init.gain import activation_gain
from dlrecipes.nn.init.weights import init_weights


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        (nn.ReLU(), 2 / 72),
        (nn.LeakyReLU(0.5), 2 / (1.25 * 72)),
        (nn.Tanh(), 2 / (72 + 9 * 512)),
        (nn.Sigmoid(), 2 / (72 + 9 * 512)),
        (nn.SELU(), 1 / 72),
        (nn.GELU(), activation_gain(nn.GELU()) ** 2 / 72),
        (nn.SiLU(), activation_gain(nn.SiLU()) ** 2 / 72),
        (nn.Identity(), 1 / 72),
    ],
    ids=str,
)
def test_variance_is_the_formulas(activation: nn.Module, variance: float, distribution: str) -> None:
    conv = nn.Conv2d(8, 512, 3)
    net = nn.Sequential(conv, nn.BatchNorm2d(512), activation)
    (row,) = init_weights(net, distribution=distribution, generator=seeded()).rows
    draws = conv.weight.detach().flatten().double()
    assert row.std == pytest.approx(math.sqrt(variance))
    # n s² / σ² of normal draws is χ²; that of uniform ones has a smaller spread
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], len(draws)) / len(draws)
    assert low < float(draws.square().mean()) / variance < high
    shape = "norm" if distribution == "normal" else "uniform"
    place = (0, math.sqrt(variance)) if shape == "norm" else (-math.sqrt(3 * variance), 2 * math.sqrt(3 * variance))
    assert stats.kstest(draws[:5000].numpy(), shape, place).pvalue > 1e-3
    assert not conv.bias.any()


@torch.no_grad()
def test_signal_keeps_its_size_through_fifty_layers() -> None:
    net = nn.Sequential(*[layer for _ in range(50) for layer in (nn.Linear(256, 256), nn.ReLU())])
    x = torch.randn(64, 256, generator=seeded())
    init_weights(net, generator=seeded())
    assert 0.3 < float(net(x).square().mean()) < 3
    init_weights(net, "glorot", generator=seeded())
    assert float(net(x).square().mean()) < 2.0**-45


def test_fan_out_keeps_the_gradient() -> None:
    conv = nn.Conv2d(4, 64, 3, groups=2)
    (row,) = init_weights(nn.Sequential(conv, nn.ReLU()), mode="fan_out").rows
    assert row.std == pytest.approx(math.sqrt(2 / (9 * 32)))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last, self.unused = nn.Linear(8, 2), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.b(x), 0.3)  # not the order of definition
        x = self.a(x)
        x = torch.tanh(x) + self.c(x).sigmoid() * 0.5
        y = self.c(x)
        return self.last(y * torch.sigmoid(y))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu, self.tanh = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            return x
        return self.relu(self.a(self.tanh(self.b(x))))


def test_functions_are_found_in_the_graph() -> None:
    table = init_weights(Functional())
    assert table.found_by == "graph"
    assert {row.name: row.activation for row in table.rows} == {
        "b": "leaky_relu(0.3)",
        "a": "tanh",
        "c": "sigmoid",
        "last": "none",
    }
    assert table.left == ("unused",)


def test_swish_that_is_written_out_is_silu() -> None:
    class Swish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y * torch.sigmoid(y)

    assert init_weights(Swish()).rows[0].activation == "silu"


def test_what_cannot_be_traced_is_run_or_read_in_order() -> None:
    by_calls = init_weights(Untraceable(), batch=torch.zeros(2, 8))
    assert by_calls.found_by == "execution"
    assert [(row.name, row.activation) for row in by_calls.rows] == [("b", "tanh"), ("a", "relu")]
    by_order = init_weights(Untraceable())
    assert by_order.found_by == "modules"
    assert [(row.name, row.activation) for row in by_order.rows] == [("a", "none"), ("b", "relu")]
    with pytest.raises(UserError, match=r"torch\.fx"):
        init_weights(Untraceable(), residual="zero_norm")


def test_norms_start_as_one_and_zero() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU())
    for tensor in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
        nn.init.normal_(tensor)
    init_weights(net)
    for norm in (net[1], net[2]):
        assert bool((norm.weight == 1).all())
        assert not norm.bias.any()
    assert not net[1].running_mean.any()
    assert bool((net[1].running_var == 1).all())


def test_residual_branches_start_as_zero() -> None:
    net = resnet18(num_classes=4)
    table = init_weights(net, residual="zero_norm")
    ends = [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert list(table.zeroed) == ends
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == (0 if name in ends else 1)).all())


@torch.no_grad()
@pytest.mark.parametrize("pre_activation", [False, True])
def test_zeroed_block_is_its_shortcut(pre_activation: bool) -> None:
    block = ResidualBlock(4, 4, pre_activation=pre_activation, zero_init=False)
    x = torch.rand(2, 4, 6, 6)
    assert not torch.equal(block(x), x)
    init_weights(block, residual="zero_norm")
    assert torch.equal(block(x), x)


class PlainResidual(nn.Module):
    """Residual blocks without norms, as Fixup is made for."""

    def __init__(self, blocks: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*[m for _ in range(layers - 1) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 64))
            for _ in range(blocks)
        )
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x)


@pytest.mark.parametrize(("blocks", "layers", "scale"), [(9, 2, 9**-0.5), (16, 3, 0.5), (4, 1, 1.0)])
def test_fixup(blocks: int, layers: int, scale: float) -> None:
    net = PlainResidual(blocks, layers)
    table = init_weights(net, residual="fixup", generator=seeded())
    assert len(table.zeroed) == blocks + 1
    assert not net.head.weight.any()
    for block in net.blocks:
        assert not block[-1].weight.any()
        for inner in block[:-1:2]:
            assert float(inner.weight.detach().std()) == pytest.approx(scale * math.sqrt(2 / 64), rel=0.06)
    rows = {row.name: row for row in table.rows}
    assert rows["head"].std == 0
    if layers > 1:
        assert rows["blocks.0.0"].std == pytest.approx(scale * math.sqrt(2 / 64))


def test_frozen_shared_and_parametrized_layers_are_left() -> None:
    frozen, made = nn.Linear(4, 4).requires_grad_(False), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    before = frozen.weight.clone(), made.weight.detach().clone()
    table = init_weights(nn.Sequential(frozen, made, nn.Linear(4, 2)))
    assert torch.equal(frozen.weight, before[0])
    assert torch.equal(made.weight, before[1])
    assert [row.name for row in table.rows] == ["2"]
    assert "0" in table.left


def test_the_same_generator_gives_the_same_weights() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    state = torch.get_rng_state()
    for layer in (one, two):
        init_weights(layer, generator=seeded())
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("argument", "value"), [("scheme", "best"), ("distribution", "cauchy"), ("mode", "fan"), ("residual", "yes")]
)
def test_unknown_choices_are_named(argument: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}='{value}'"):
        init_weights(nn.Linear(2, 2), **{argument: value})


@pytest.mark.parametrize(("model", "why"), [(nn.ReLU(), "no linear"), (nn.LazyLinear(3), "no shape")])
def test_nothing_to_start_is_said(model: nn.Module, why: str) -> None:
    with pytest.raises(UserError, match=why):
        init_weights(model)


def test_table_has_a_row_for_each_layer() -> None:
    table = init_weights(resnet18(num_classes=4))
    assert len(table.rows) == 21
    assert table.table().row_count == 21
    assert "20 x he before relu" in str(table)
