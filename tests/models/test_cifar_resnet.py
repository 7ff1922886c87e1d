"""CIFAR's residual network: the paper's sizes, its shortcuts by hand."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models import CifarResNet

INFO = DataInfo(
    task="classification",
    classes=tuple("abc"),
    category_ids=(0, 1, 2),
    class_counts=(9, 9, 9),
    num_train=27,
    max_objects=0,
    image_size=32,
)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_sizes_are_the_papers(depth: int, millions: float) -> None:
    """He et al., 2016, table 6."""
    model = CifarResNet(depth)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth


def test_parameters_of_32_layers_counted_by_hand() -> None:
    def blocks(channels_in: int, channels: int, number: int) -> int:
        first = 9 * channels_in * channels + 9 * channels * channels
        return first + (number - 1) * 18 * channels * channels + number * 4 * channels

    stem, head = 27 * 16 + 2 * 16, 65 * 10
    assert stem + blocks(16, 16, 5) + blocks(16, 32, 5) + blocks(32, 64, 5) + head == 464_154
    assert sum(p.numel() for p in CifarResNet(32).parameters()) == 464_154


def test_shapes_halve_from_stage_to_stage() -> None:
    model = CifarResNet(8)
    x = F.relu(model.bn(model.conv(torch.zeros(2, 3, 32, 32))))
    shapes = []
    for stage in model.stages:
        x = stage(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    assert model.features(torch.zeros(2, 3, 40, 48)).shape == (2, 64)


def test_a_shortcut_takes_every_second_place_and_adds_channels_of_zeros() -> None:
    first = CifarResNet(8).stages[1][0]
    x = torch.arange(16 * 16.0).reshape(1, 16, 4, 4)
    found = first.shortcut(x)
    assert found.shape == (1, 32, 2, 2)
    assert not found[:, :8].any()
    assert not found[:, 24:].any()
    assert found[0, 8].tolist() == [[0.0, 2.0], [8.0, 10.0]]
    assert torch.equal(found[:, 8:24], x[:, :, [0, 2]][..., [0, 2]])


def test_a_block_is_two_convolutions_and_its_shortcut() -> None:
    block = CifarResNet(8).stages[1][0].eval()
    x = torch.randn(2, 16, 6, 6)
    inner = F.relu(F.batch_norm(F.conv2d(x, block.conv1.weight, stride=2, padding=1), torch.zeros(32), torch.ones(32)))
    outer = F.batch_norm(F.conv2d(inner, block.conv2.weight, padding=1), torch.zeros(32), torch.ones(32))
    expected = F.relu(outer + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
    torch.testing.assert_close(block(x), expected)
    same = CifarResNet(14).stages[2][1].eval()
    y = torch.randn(1, 64, 4, 4)
    torch.testing.assert_close(same.shortcut(y), y, rtol=0, atol=0)


def test_weights_start_as_kaiming_normal() -> None:
    torch.manual_seed(0)
    model = CifarResNet(20)
    for layer in (model.stages[2][1].conv1, model.stages[1][2].conv2, model.stages[0][1].conv1):
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert not model.head.bias.any()


def test_it_meets_its_data() -> None:
    model = CifarResNet(8).to(torch.float64).eval()
    body = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("head")}
    model.bind(INFO)
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 3)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in body.items())
    kept = model.head.weight
    model.bind(INFO)
    assert model.head.weight is kept
    with pytest.raises(UserError, match="CifarResNet needs classes or target names"):
        model.bind(replace(INFO, classes=()))


@pytest.mark.parametrize(
    ("args", "message"), [({"depth": 18}, "depth=18: 6n + 2"), ({"num_classes": 0}, "num_classes=0")]
)
def test_arguments_out_of_range_are_named(args: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CifarResNet(**args)
