"""Features and classifier of every image model make up the model, bit for bit; cosines as its last layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models import CifarResNet, DeployedModel, EfficientNet, MLPMixer, TimmClassifier
from dlrecipes.nn import CosineLinear
from dlrecipes.parts import build_part, part_spec

INFO = DataInfo(
    task="classification",
    classes=tuple("abc"),
    category_ids=(0, 1, 2),
    class_counts=(9, 9, 9),
    num_train=27,
    max_objects=0,
    image_size=32,
)
MODELS: dict[str, Callable[..., nn.Module]] = {
    "efficientnet": lambda **a: EfficientNet("lite0", total_stride=8, drop_rate=0.3, **a),
    "mixer": lambda **a: MLPMixer("small", blocks=1, dim=16, drop_rate=0.3, **a),
    "cifar_resnet": lambda **a: CifarResNet(8, **a),
    "resnet": lambda **a: TimmClassifier("test_resnet", **a),
    "convnext": lambda **a: TimmClassifier("test_convnext", **a),
    "vit": lambda **a: TimmClassifier("test_vit", args={"img_size": 32}, **a),
}


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_of_the_features_is_the_model(name: str, head: str) -> None:
    model: Any = MODELS[name](head=head)
    model.bind(INFO)
    for training in (False, True):
        model.train(training)
        torch.manual_seed(0)  # dropout is a part of the features
        features = model.features(images())
        found = model.classify(features)
        torch.manual_seed(0)
        assert torch.equal(found, model(images()))
    assert features.dim() == 2
    assert found.shape == (2, 3)


@pytest.mark.parametrize("name", MODELS)
def test_cosines_stay_through_another_number_of_classes_and_a_checkpoint(name: str) -> None:
    model: Any = MODELS[name](head="cosine")
    model.bind(INFO)
    (head,) = model.classifiers().values()
    assert type(head) is CosineLinear
    assert head.weight.shape[0] == 3
    again = build_part(part_spec(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images()), model.eval()(images()))
    assert model(images()).abs().max() <= 1 + 1e-6


def test_cosines_stay_when_the_mixer_is_made_for_another_image_size() -> None:
    model = MLPMixer("small", blocks=1, dim=16, image_size=64, num_outputs=3, head="cosine")
    model.bind(INFO)
    assert isinstance(model.net.head, CosineLinear)


def test_the_linear_head_is_what_it_was_before_there_was_a_choice() -> None:
    torch.manual_seed(0)
    model = TimmClassifier("test_resnet", num_outputs=3)
    assert type(model.net.fc) is nn.Linear
    assert "fc.weight" in dict(model.net.named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_head_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="head='round': choose one of linear, cosine"):
        MODELS[name](head="round")


def test_a_classifier_that_is_a_convolution_has_features_but_no_cosines() -> None:
    model = TimmClassifier("resnetv2_18", num_outputs=3).eval()
    assert torch.equal(model.classify(model.features(images())), model(images()))
    with pytest.raises(UserError, match="ResNetV2 ends otherwise: take"):
        TimmClassifier("resnetv2_18", head="cosine")


def test_two_classifiers_have_no_one_vector_of_features() -> None:
    model = TimmClassifier("deit_tiny_distilled_patch16_224", num_outputs=3, args={"depth": 1})
    with pytest.raises(UserError, match=r"VisionTransformerDistilled has no vector of features"):
        model.features(torch.zeros(1, 3, 224, 224))


def test_cosines_are_exported(tmp_path: Path) -> None:
    """Through ``torch.export``, which ONNX files are written from."""
    model = CifarResNet(8, 3, head="cosine")
    deployed = DeployedModel(model.eval(), INFO)
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    program = torch.export.export(deployed, (pictures,))
    torch.testing.assert_close(program.module()(pictures), deployed(pictures))
