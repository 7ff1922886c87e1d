"""Every unit of every map, at the borders and channel by channel, against gradients."""

import pytest
import torch
from brute_force import edges_of, positive_copy
from reach_nets import NETS
from torch import Tensor, nn

from dlrecipes.nn.fields.reach import compact, image_reach, reshape
from dlrecipes.nn.fields.trace import trace
from dlrecipes.nn.meta import meta_copy, meta_image


def _followed(net: nn.Module, size: tuple[int, int], channel: int | slice = slice(None)) -> Tensor:
    """First and last row, first and last column of each unit of the output: [4, h, w]; −1: none."""
    shapes = meta_copy(net).eval()
    found = trace(shapes, meta_image(shapes, 3, size))
    if found.error is not None:
        raise found.error
    assert found.output is not None
    assert found.output.whole == (None, None)
    edges = [edge[0, channel] for edge in found.output.edges]
    top, bottom, left, right = (edge.amax(0) if isinstance(channel, slice) else edge for edge in edges)
    return torch.stack([-top, bottom, -left, right]).nan_to_num(-1, posinf=-1, neginf=-1).long()


@pytest.mark.parametrize("name", NETS)
def test_every_unit_against_gradients(name: str) -> None:
    torch.manual_seed(0)
    make, size = NETS[name]
    net = make()
    expected = edges_of(positive_copy(net), torch.rand(1, 3, *size))
    assert expected.shape[1] > 1
    assert torch.equal(_followed(net, size), expected)


@pytest.mark.parametrize("name", ["shuffle", "grouped", "written", "branches"])
def test_every_channel_against_gradients(name: str) -> None:
    torch.manual_seed(0)
    make, size = NETS[name]
    net = make()
    image = torch.rand(1, 3, *size)
    twin = positive_copy(net)
    different = set()
    for channel in range(twin(image.double()).shape[1]):
        expected = edges_of(twin, image, channel=channel)
        assert torch.equal(_followed(net, size, channel), expected)
        different.add(tuple(expected.flatten().tolist()))
    assert len(different) > 1


@pytest.mark.parametrize(
    ("shape", "constant", "new", "kept"),
    [
        ((1, 6, 4, 5), (1,), (1, 2, 3, 4, 5), 20),
        ((1, 6, 4, 5), (1, 3), (6, 20), 20),  # rows and columns become one: no repetition any more
        ((1, 6, 4, 5), (1, 2, 3), (1, 6, 20), 1),
        ((2, 1, 3), (0,), (6, 1, 1), 6),
        ((1, 1), (), (), 1),
        ((6,), (), (2, 1, 3), 6),
        ((4, 6), (0,), (2, 2, 6, 1), 6),
        ((4, 6), (1,), (8, 3), 8),
    ],
)
def test_reshape_is_torchs_and_keeps_repetitions(
    shape: tuple[int, ...], constant: tuple[int, ...], new: tuple[int, ...], kept: int
) -> None:
    x = torch.randn([1 if dim in constant else n for dim, n in enumerate(shape)]).expand(shape)
    out = reshape(x, new)
    assert torch.equal(out, x.reshape(new))
    assert compact(out).numel() == kept


def test_a_large_map_costs_little() -> None:
    reach = image_reach((1, 64, 2000, 2000))
    assert sum(compact(edge).numel() for edge in reach.edges) == 8000


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in net.modules()]
    trace(meta_copy(net).eval(), meta_image(net, 3, (16, 16)))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [len(module._forward_hooks) for module in net.modules()] == hooks


class _Picked(nn.Module):
    """Places by an integer buffer, a constant beside the parameters, a part that depends on nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([5, 0, 3]))
        self.constant = torch.ones(1, 3, 1, 1)
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x * self.constant + torch.arange(x.shape[-1], device=x.device))
        return torch.cat([x[:, :, self.order], torch.zeros_like(x)], 2)


def test_indices_and_constants() -> None:
    torch.manual_seed(0)
    net, size = _Picked(), (6, 5)
    expected = edges_of(positive_copy(net), torch.rand(1, 3, *size))
    assert torch.equal(_followed(net, size), expected)
    assert (expected[:, 3:] == -1).all()


class _Last(nn.Module):
    """A layer on channels last."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("layer", "whole"),
    [
        (nn.GroupNorm(2, 4), True),
        (nn.InstanceNorm2d(4), True),
        (nn.LayerNorm([4, 10, 10]), True),
        (nn.Softmax2d(), False),
        (nn.Sequential(nn.Flatten(2), nn.Softmax(2), nn.Unflatten(2, (10, 10))), True),
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.AdaptiveMaxPool2d(1), True),
        (_Last(nn.LayerNorm(4)), False),
        (_Last(nn.Sequential(nn.Linear(4, 8), nn.GELU())), False),
        (_Last(nn.RMSNorm(4)), False),
        (nn.LocalResponseNorm(3), False),
        (nn.PReLU(4), False),
    ],
)
def test_which_layers_see_the_whole_map(layer: nn.Module, whole: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    shapes = meta_copy(net).eval()
    found = trace(shapes, meta_image(shapes, 3, (12, 12)))
    assert found.error is None
    assert found.output is not None
    assert [place is not None for place in found.output.whole] == [whole, whole]
    local = [edge.isfinite().any() for edge in found.output.edges]
    assert all(local) or isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Sequential)


class _Overwritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 2, 5, padding=2), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.wide(x)
        out[:, :, ::2].copy_(self.narrow(x)[:, :, ::2])
        return out


def test_what_is_overwritten_does_not_count() -> None:
    net = _Overwritten()
    expected = edges_of(positive_copy(net), torch.rand(1, 3, 7, 6))
    assert torch.equal(_followed(net, (7, 6)), expected)


def test_batch_statistics_see_the_whole_map() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    shapes = meta_copy(net).eval()
    found = trace(shapes, meta_image(shapes, 3, (12, 12)))
    assert found.output is not None
    assert found.output.whole[0] == ("1", "BatchNorm2d")
    with torch.no_grad():
        kept = trace(meta_copy(nn.Sequential(net[0], nn.BatchNorm2d(2))).eval(), meta_image(shapes, 3, (12, 12)))
    assert kept.output is not None
    assert kept.output.whole == (None, None)
