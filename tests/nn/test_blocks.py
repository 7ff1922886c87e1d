"""Blocks: shapes, parameters, what they start as, and what a checkpoint needs to make them again."""

import pytest
import torch
from torch import Tensor, nn

from dlrecipes.nn import Bottleneck, Conv1xN, ConvBNAct, ResidualBlock, compare_kernels
from dlrecipes.nn.activations import ACTIVATIONS, activation
from dlrecipes.parts import build_part, part_spec


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _random(block: nn.Module) -> nn.Module:
    """Every parameter and statistic away from its start, so that nothing is hidden by a 0 or a 1."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*block.parameters(), *block.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 1.0, generator=generator)
    return block.double().eval()


def _bn(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """The formula, without torch's layer."""
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()  # type: ignore[operator]
    return (x - bn.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)  # type: ignore[union-attr]


def test_conv_bn_act_is_its_formula() -> None:
    block = _random(ConvBNAct(2, 3, (1, 5), dilation=2, act="silu", bn_eps=1e-3))
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    z = _bn(nn.functional.conv2d(x, block.conv.weight, padding=(0, 4), dilation=2), block.bn)
    torch.testing.assert_close(block(x), z * z.sigmoid())
    assert block.conv.bias is None
    assert block.bn.eps == 1e-3


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), ((1, 7), 1), ([7, 1], (3, 1)), (5, 3)])
def test_conv_bn_act_keeps_the_size(kernel: int | tuple[int, int], dilation: int | tuple[int, int]) -> None:
    assert ConvBNAct(3, 4, kernel, dilation=dilation)(torch.zeros(2, 3, 20, 17)).shape == (2, 4, 20, 17)


def test_residual_block_is_its_formula() -> None:
    block = _random(ResidualBlock(3, 4, stride=2, zero_init=False))
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    conv = nn.functional.conv2d
    z = _bn(conv(x, block.branch.conv1.weight, stride=2, padding=1), block.branch.bn1).relu()
    z = _bn(conv(z, block.branch.conv2.weight, padding=1), block.branch.bn2)
    s = _bn(conv(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
    torch.testing.assert_close(block(x), (s + z).relu())


def test_pre_activation_block_is_its_formula() -> None:
    block = _random(ResidualBlock(3, 4, stride=2, zero_init=False, pre_activation=True))
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    conv = nn.functional.conv2d
    ready = _bn(x, block.pre[0]).relu()
    z = _bn(conv(ready, block.branch.conv1.weight, stride=2, padding=1), block.branch.bn1).relu()
    z = conv(z, block.branch.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), conv(ready, block.shortcut.weight, stride=2) + z)


def test_padded_shortcut_is_option_a() -> None:
    block = ResidualBlock(2, 5, stride=2, shortcut="pad")
    x = torch.rand(1, 2, 5, 5)
    out = block(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert not out[:, 2:].any()
    assert _weights(block.shortcut) == 0


@pytest.mark.parametrize("kind", [ResidualBlock, Bottleneck])
@pytest.mark.parametrize("pre_activation", [False, True])
@pytest.mark.parametrize("conv1xn", [False, True])
@pytest.mark.parametrize("act", ["relu", "silu"])
def test_zero_init_is_the_identity_that_can_learn(
    kind: type[ResidualBlock], pre_activation: bool, conv1xn: bool, act: str
) -> None:
    torch.manual_seed(0)
    block = kind(8, 8, pre_activation=pre_activation, conv1xn=conv1xn, act=act)
    x = torch.rand(4, 8, 6, 6)
    out = block(x)
    assert torch.equal(out, block.act(x))  # without pre-activation that is after the sum: ReLU leaves x as it is
    if pre_activation or act == "relu":
        assert torch.equal(out, x)
    # two steps: the zero must leave 0, and what lies before it must learn then
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    before = next(block.branch.conv1.parameters()).clone()
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * torch.linspace(-1, 1, x.numel()).view_as(x)).sum().backward()
        optimizer.step()
    assert not torch.equal(next(block.branch.conv1.parameters()), before)
    assert not torch.equal(block(x), x)


def test_drop_path_leaves_out_whole_samples_and_only_in_training() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(2, 2, drop_path=0.5, zero_init=False)
    x = torch.rand(400, 2, 4, 4)
    kept = (block(x) != x).flatten(1).any(1)
    assert 150 < int(kept.sum()) < 250
    assert bool((block.eval()(x) != x).flatten(1).any(1).all())


def test_bottleneck_has_resnets_parameters() -> None:
    # 1x1 256→64, 3x3 64→64, 1x1 64→256 and γ, β of 64 + 64 + 256 channels
    assert _weights(Bottleneck(256, 256)) == 256 * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256)


@pytest.mark.parametrize("n", [3, 5, 7, 11])
def test_conv1xn_has_2n_weights_a_pair_and_a_field_of_n(n: int) -> None:
    conv = Conv1xN(1, 1, n).double()
    assert _weights(conv) == 2 * n
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64, requires_grad=True)
    conv(x)[0, 0, 15, 15].backward()
    seen = x.grad[0, 0].nonzero()  # type: ignore[index]
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [n, n]
    assert len(seen) == n * n


def test_conv1xn_is_the_square_of_its_outer_product() -> None:
    conv = _random(Conv1xN(1, 1, 5, stride=2, dilation=2))
    x = torch.randn(1, 1, 17, 17, dtype=torch.float64)
    square = conv.column.weight @ conv.row.weight
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, square, stride=2, padding=4, dilation=2))


@pytest.mark.parametrize(("c", "k", "n"), [(1, 1, 3), (16, 32, 7), (8, 8, 5)])
def test_compare_kernels_counts_what_the_layers_hold(c: int, k: int, n: int) -> None:
    square, pair, stack = compare_kernels(c, k, n)
    assert square.weights == _weights(nn.Conv2d(c, k, n, bias=False))
    assert pair.weights == _weights(Conv1xN(c, k, n))
    layers = [nn.Conv2d(c if index == 0 else k, k, 3, bias=False) for index in range(stack.layers)]
    assert stack.weights == sum(map(_weights, layers))
    assert {square.field, pair.field, stack.field} == {n}


@pytest.mark.parametrize(
    "block",
    [
        ConvBNAct(2, 4, (1, 3), act="gelu", bn_momentum=0.01),
        Conv1xN(2, 4, 5, between="relu"),
        ResidualBlock(2, 4, stride=2, pre_activation=True, drop_path=0.2, conv1xn=True, kernel=5),
        Bottleneck(8, 8, groups=2, shortcut="pad", zero_init=False),
    ],
)
def test_a_checkpoint_can_make_the_block_again(block: nn.Module) -> None:
    again = build_part(part_spec(block))
    assert str(again) == str(block)
    again.load_state_dict(block.state_dict())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_map_tensors(name: str) -> None:
    x = torch.linspace(-2, 2, 9)
    expected = x if name == "none" else getattr(nn.functional, name)(x)
    torch.testing.assert_close(activation(name)(x), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvBNAct(3, 8, 0), "kernel=0"),
        (lambda: ConvBNAct(3, 8, (3, 3, 3)), r"kernel=\(3, 3, 3\)"),  # type: ignore[arg-type]
        (lambda: ConvBNAct(3, 8, act="rellu"), "act='rellu'"),
        (lambda: ConvBNAct(3, 8, bn_momentum=0), "bn_momentum=0"),
        (lambda: ConvBNAct(3, 8, bn_eps=0), "bn_eps=0"),
        (lambda: ResidualBlock(3, 8, kernel=4), "kernel=4"),
        (lambda: ResidualBlock(3, 8, drop_path=1.0), "drop_path=1.0"),
        (lambda: ResidualBlock(3, 8, shortcut="b"), "shortcut='b'"),
        (lambda: ResidualBlock(8, 4, shortcut="pad"), "8 channels cannot be padded to 4"),
        (lambda: Bottleneck(8, 10), "expansion=4"),
        (lambda: Conv1xN(8, 8, 4), "n=4"),
        (lambda: compare_kernels(8, 8, 1), "n=1"),
    ],
)
def test_wrong_values_are_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
