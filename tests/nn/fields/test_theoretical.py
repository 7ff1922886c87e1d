"""Receptive fields: published figures, hand-worked ones, and honest answers where there is no field."""

from io import StringIO

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from reach_nets import Branches
from rich.console import Console
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn import Conv1xN, StagePlan, compare_kernels, receptive_field


def _without_weights(make, *args, **kwargs) -> nn.Module:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        return make(*args, **kwargs)


# Araujo et al., 2019, doi:10.23915/distill.00021, table 1 (mobilenet, vgg, resnet v2); He et al. by the same rules
@pytest.mark.parametrize(
    ("model", "field", "stride", "depth"),
    [
        (lambda: tv.resnet18(), 435, 32, 18),
        (lambda: tv.resnet50(), 427, 32, 50),
        pytest.param(lambda: timm.create_model("resnet50"), 427, 32, 50, marks=pytest.mark.slow),
        (lambda: tv.vgg16(), 212, 32, 16),
        (lambda: timm.create_model("mobilenetv1_100"), 315, 32, 28),
        (lambda: tv.alexnet(), 195, 32, 8),
    ],
)
def test_published_fields(model, field: int, stride: int, depth: int) -> None:  # type: ignore[no-untyped-def]
    found = receptive_field(_without_weights(model), 224)
    assert found.size == (field, field)
    assert found.before_global == found.size
    assert found.stride == (stride, stride)
    assert not found.at_least
    assert found.depth == depth


def test_layer_by_layer_by_hand() -> None:
    # r' = r + d (k - 1) j, j' = j s, middle of the first unit c' = c + (d (k - 1) / 2 - p) j
    net = nn.Sequential(
        nn.Conv2d(1, 1, 3, 1, 1),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(1, 1, (3, 5), (1, 2), (1, 0)),
        nn.Conv2d(1, 1, 3, 1, 2, dilation=2),
    )
    found = receptive_field(net, (40, 64))
    lines = [(layer.size, layer.stride, layer.offset, layer.map_size) for layer in found.layers]
    assert lines == [
        ((3, 3), (1, 1), (0, 0), (40, 64)),
        ((4, 4), (2, 2), (0.5, 0.5), (20, 32)),
        ((8, 12), (2, 4), (0.5, 4.5), (20, 14)),
        ((16, 28), (2, 4), (0.5, 4.5), (20, 14)),
    ]
    assert [layer.kind for layer in found.layers] == [
        "Conv2d 3x3",
        "MaxPool2d 2x2 /2",
        "Conv2d 3x5 /1x2",
        "Conv2d 3x3 dilated 2",
    ]


@pytest.mark.parametrize("n", [3, 7])
def test_a_pair_sees_what_its_square_sees(n: int) -> None:
    square, pair = nn.Conv2d(3, 4, n, padding=n // 2), Conv1xN(3, 4, n)
    assert receptive_field(square, 32).size == receptive_field(pair, 32).size == (n, n)
    assert {cost.field for cost in compare_kernels(3, 4, n)} == {n}


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (StagePlan(early_pool=False), 109),  # (435 - 11) / 4 of resnet18's, and 3 of the stem
        (StagePlan(dilation=(1, 1, 1, 2)), 467),  # the convolution that had the stride reaches 32 pixels further
        (StagePlan(depth=(1, 1), width=(8, 8), block="conv1xn"), 11 + 2 * 6 * 4 + 6 * 4 + 6 * 8),
    ],
)
def test_plans(plan: StagePlan, field: int) -> None:
    with torch.device("meta"):
        net = plan.build(10)
    found = receptive_field(net, 128)
    assert found.size == (field, field)
    assert found.stride == (plan.total_stride,) * 2
    assert found.global_from == "pool"


def test_a_block_sees_what_its_widest_branch_sees() -> None:
    found = receptive_field(nn.Sequential(Branches(), nn.AdaptiveAvgPool2d(1)), 64)
    assert {layer.name: layer.size for layer in found.layers if layer.map_size} == {
        "0.stem": (3, 3),
        "0.a": (3, 3),
        "0.b.0": (3, 3),
        "0.b.1": (3, 11),
        "0.b.2": (11, 11),
        "0.c": (15, 15),  # dilated by 3 at stride 2
        "0.d.0": (7, 7),
        "0.d.1": (7, 7),
        "0": (15, 15),
    }
    assert found.last.name == "0"


def test_efficientnet_sees_the_whole_image_from_its_first_gate_on() -> None:
    found = receptive_field(_without_weights(timm.create_model, "efficientnet_b0"), 224)
    assert found.global_from == "blocks.0.0.se"
    assert found.global_kind == "SqueezeExcite"
    assert found.before_global == (7, 7)  # 3x3 with stride 2, 3x3
    assert found.size == (851, 851)
    assert found.layer("conv_head").whole == (True, True)
    assert not found.layer("blocks.0.0.conv_dw").whole[0]


def test_attention_is_the_whole_image() -> None:
    found = receptive_field(_without_weights(timm.create_model, "vit_tiny_patch16_224", depth=2), 224)
    assert found.global_from == "blocks.0.attn"
    assert found.before_global == found.size == (16, 16)
    assert found.depth == 1 + 2 * 4 + 1


class Strips(nn.Module):
    """A gate that sees whole rows only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, (5, 1), padding=(2, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.after(x.mean(3, keepdim=True)).sigmoid()


def test_a_mean_along_rows_sees_all_columns_only() -> None:
    found = receptive_field(Strips(), 32)
    assert found.layers[-1].whole == (False, True)
    assert found.layers[-1].size == (7, 3)
    assert (found.global_from, found.global_kind) == ("forward", "Strips")


class ByPart(nn.Module):
    """The given sizes only: flattens and connects all places."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 10 * 10, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.convs(x))


def test_connections_to_all_places_and_a_fixed_size() -> None:
    found = receptive_field(ByPart(), 32)
    assert found.size == (14, 14)
    assert not found.at_least
    assert found.global_from == "head.1"
    assert found.layers[-1].size is None
    assert found.layers[-1].depth == 4


def test_adaptive_pooling_is_the_one_of_the_image() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(256, 3))
    found = receptive_field(net, 32)
    assert found.layers[1].size == (6, 6)  # windows of 4 pixels, each of which has seen one more on every side
    assert found.size == (6, 6)
    assert found.global_from == "3"


class Grid(nn.Module):
    """Attention between places of the same position in a grid of 4 x 4: its field grows with the image."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1] // 4
        places = x.view(1, -1, 4, side, 4, side).permute(0, 3, 5, 2, 4, 1).reshape(side * side, 16, -1)
        mixed = F.scaled_dot_product_attention(places, places, places)
        return mixed.view(1, side, side, 4, 4, -1).permute(0, 5, 3, 1, 4, 2).reshape(x.shape)


def test_what_grows_with_the_image_is_said_to() -> None:
    found = receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Grid()), 32)
    assert found.layers[-1].at_least
    assert "at least" in str(found)
    assert not found.layers[0].at_least


class Asking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (lambda: Asking(), 32, "a way that depends on the numbers in the image, at its own forward"),
        (lambda: ByPart(), 64, "ByPart does not take an image .1, 3, 64, 64., at head.1"),
    ],
)
def test_one_sentence_where_there_is_no_answer(model, size: int, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message) as caught:
        receptive_field(model(), size)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="size=0"):
        receptive_field(nn.Conv2d(3, 4, 3), 0)
    with pytest.raises(UserError, match="no layer 'nine' was called, but 0, 1"):
        receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 8).layer("nine")
    with pytest.raises(ValueError, match="object_sizes"):
        receptive_field(nn.Conv2d(3, 4, 3), 8).advice([])


def test_the_table_shows_changes_only() -> None:
    found = receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), 16)
    out = StringIO()
    Console(width=100, file=out).print(found.table())
    assert "Conv2d 3x3" in out.getvalue()
    assert "BatchNorm" not in out.getvalue()
    assert len(found.layers) == 4
    assert found.table().row_count == 2
    assert str(found) == "receptive field 4 pixels, stride 2 (3)"


def _titles(net: nn.Module, size: int, objects: list[float]) -> list[str]:
    return [f"{verdict.level}: {verdict.title}" for verdict in receptive_field(net, size).advice(objects)]


def test_advice() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.Conv2d(4, 4, 3, 2, 1))  # field 11, stride 4
    assert _titles(net, 64, [4.0, 5.0]) == ["ok: field and objects fit"]
    assert _titles(net, 64, [4.0, 9.0]) == ["advice: field just covers the objects"]
    assert _titles(net, 64, [5.0, 40.0]) == ["warning: field smaller than the objects"]
    assert _titles(net, 64, [3.0, 5.0]) == ["advice: stride larger than small objects"]
    assert _titles(net, 8, [4.0, 5.0]) == ["advice: last map is tiny"]
    pooled = nn.Sequential(net, nn.AdaptiveAvgPool2d(1))
    assert _titles(pooled, 64, [5.0, 40.0]) == ["advice: field smaller than the objects"]


def test_following_the_advice_is_enough() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.Conv2d(4, 4, 3, 2, 1))
    (verdict,) = receptive_field(net, 64).advice([30.0])
    assert "Add 3 more 3x3 convolutions at the last stride of 4" in verdict.advice  # (30 - 11) / 8, rounded up
    more = nn.Sequential(net, *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    assert receptive_field(more, 64).size >= (30, 30)


def test_segmentation_is_seen_through_to_its_output() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 6, dilation=6), nn.AdaptiveAvgPool2d(1))
    pooled = nn.Sequential(net, nn.Upsample(size=(20, 20), mode="bilinear"))
    found = receptive_field(pooled, 40)
    assert found.layers[-1].whole == (True, True)
    whole = receptive_field(nn.Sequential(net[:2], nn.Upsample(scale_factor=2, mode="bilinear")), 40)
    assert whole.size == (29, 29)  # 3 + 2 * 6 * 2, and a neighbour 2 pixels away
    assert whole.stride == (1, 1)
