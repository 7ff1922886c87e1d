"""Effective receptive fields against closed forms."""

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn import effective_receptive_field


def _boxes(layers: int, width: int = 3) -> nn.Module:
    """Convolutions of ones: what counts is the box, convolved with itself."""
    convs = [nn.Conv2d(1, 1, width, padding=width // 2, bias=False) for _ in range(layers)]
    for conv in convs:
        nn.init.ones_(conv.weight)
    return nn.Sequential(*convs).double()


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_boxes_give_their_convolution(layers: int) -> None:
    field = effective_receptive_field(_boxes(layers), 25)
    line = torch.ones(1, dtype=torch.float64)
    for _ in range(layers):
        line = torch.nn.functional.conv1d(line[None, None], torch.ones(1, 1, 3, dtype=torch.float64), padding=2)[0, 0]
    expected = torch.zeros(25, dtype=torch.float64)
    expected[12 - layers : 13 + layers] = line / line.sum()
    torch.testing.assert_close(field.map, expected[:, None] * expected)
    assert field.theoretical == (2 * layers + 1,) * 2
    assert field.centre == (12, 12)
    assert float(field.map.sum()) == pytest.approx(1)


def test_widths_of_a_box_are_its_shares() -> None:
    field = effective_receptive_field(_boxes(1, 9), 25)
    assert field.widths(0.68) == pytest.approx((0.68 * 9,) * 2)
    assert field.widths(0.95) == pytest.approx((0.95 * 9,) * 2)
    wide = effective_receptive_field(nn.Conv2d(1, 1, (1, 5), padding=(0, 2)), 11)
    assert wide.widths(0.5)[0] == pytest.approx(0.5)


def test_the_width_grows_with_the_root_of_the_layers() -> None:
    # n boxes of 3 have a variance of n 2/3 and a pixel of 1/12; Luo et al., section 2
    for layers in (16, 36):
        field = effective_receptive_field(_boxes(layers), 2 * layers + 9)
        deviation = (layers * 2 / 3 + 1 / 12) ** 0.5
        for share in (0.68, 0.95):
            expected = 2 * norm.ppf(0.5 + share / 2) * deviation
            assert field.widths(share) == pytest.approx((expected,) * 2, rel=0.02)


class Busy(nn.Module):
    """Two maps, of which the first is channels last; and a way that asks for numbers."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.asks, self.last, self.conv, self.head = asks, nn.Identity(), nn.Conv2d(3, 4, 5, 2, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.conv(x).permute(0, 2, 3, 1))
        if self.asks and x.mean() > 1e9:
            x = -x
        return self.head(x.mean((1, 2)))


@pytest.mark.parametrize("layer", [None, "conv", "last"])
def test_maps_of_any_layout(layer: str | None) -> None:
    torch.manual_seed(0)
    field = effective_receptive_field(Busy(False), 32, layer=layer)
    rows = field.map.sum(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (14, 18)
    assert field.centre == (16, 16)
    assert field.unit == (8, 8)


def test_only_gradients_where_the_way_depends_on_the_image() -> None:
    torch.manual_seed(0)
    field = effective_receptive_field(Busy(True), 32, layer="conv")
    assert field.theoretical is None
    assert field.centre == pytest.approx((16, 16), abs=1.5)
    assert "in theory" not in str(field)
    with pytest.raises(UserError, match="depends on the numbers"):
        effective_receptive_field(Busy(True), 32)


def test_it_is_a_function_of_model_images_and_seed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 4, 3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, again = (effective_receptive_field(net, 16, seed=3) for _ in range(2))
    assert torch.equal(first.map, again.map)
    assert not torch.equal(first.map, effective_receptive_field(net, 16, seed=4).map)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_channels_that_cancel_out_still_count() -> None:
    net = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        net.weight[0], net.weight[1] = 1.0, -1.0
    net = nn.Sequential(net)
    field = effective_receptive_field(net, torch.randn(32, 1, 9, 9))
    torch.testing.assert_close(field.map[3:6, 3:6], torch.full((3, 3), 1 / 9, dtype=torch.float64))


def test_one_sentence_where_there_is_no_answer() -> None:
    dead = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    nn.init.constant_(dead[0].bias, -1e6)
    with pytest.raises(UserError, match="no pixel has an influence on the unit in the middle of 1"):
        effective_receptive_field(dead, 8)
    with pytest.raises(UserError, match="no layer 'two'"):
        effective_receptive_field(dead, 8, layer="two")
    with pytest.raises(
        UserError, match="head is no map of rows and columns: give layer= one that is, for example last"
    ):
        effective_receptive_field(Busy(False), 32, layer="head")
    with pytest.raises(ValueError, match="images: float"):
        effective_receptive_field(dead, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="share=1"):
        effective_receptive_field(nn.Conv2d(3, 4, 3), 8).widths(1)
