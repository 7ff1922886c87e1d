"""Networks as others run them: what goes in, what comes out."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models import DETR, DeployedDetector, DeployedModel
from dlrecipes.models.deploy import deploy

INFO = DataInfo(
    task="classification",
    classes=("cat", "dog", "emu"),
    category_ids=(0, 1, 2),
    class_counts=(1, 1, 1),
    num_train=3,
    max_objects=0,
    image_size=4,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
)
IMAGES = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class ChannelMeans(nn.Module):
    """[B, 3, S, S] → [B, 3], so that what the network sees can be read off."""

    def __init__(self, normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None) -> None:
        super().__init__()
        self.normalisation = normalisation

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def seen(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (IMAGES.double().mean((2, 3)) / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()


@pytest.mark.parametrize(("task", "last"), [("classification", nn.Softmax(1)), ("multilabel", nn.Sigmoid())])
def test_images_are_normalised_and_logits_become_probabilities(task: str, last: nn.Module) -> None:
    deployed = deploy(ChannelMeans(), replace(INFO, task=task))
    assert torch.allclose(deployed(IMAGES).double(), last(seen(INFO.mean, INFO.std)), atol=1e-6)
    assert deployed.output_names == ("probabilities",)


def test_a_network_trained_on_sigmoids_answers_by_them() -> None:
    deployed = deploy(ChannelMeans(), replace(INFO, link="sigmoid"))
    each = seen(INFO.mean, INFO.std).sigmoid()
    assert torch.allclose(deployed(IMAGES).double(), each / each.sum(1, keepdim=True), atol=1e-6)


def test_a_network_trained_on_a_tempered_softmax_answers_by_it() -> None:
    deployed = deploy(ChannelMeans(), replace(INFO, link="tempered:2.0"))
    p = deployed(IMAGES).double()
    logits = seen(INFO.mean, INFO.std)
    torch.testing.assert_close(1 / p - 1 / p[:, :1], logits[:, :1] - logits, atol=1e-4, rtol=0)  # p = 1 / (1 + λ - z)


def test_the_networks_own_normalisation_goes_before_the_datas() -> None:
    own = ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    deployed = DeployedModel(ChannelMeans(own), INFO, answer=lambda outputs: outputs)
    assert torch.allclose(deployed(IMAGES).double(), seen(*own), atol=1e-6)


def test_regression_answers_in_the_datas_units() -> None:
    """Two targets; the second never changed in training, so that its standard deviation is 0."""
    info = replace(
        INFO,
        task="regression",
        classes=(),
        target_names=("height", "width"),
        target_mean=(10.0, 20.0),
        target_std=(2.0, 0.0),
        outputs_per_target=2,
    )
    network = nn.Sequential(ChannelMeans(), nn.Linear(3, 4))
    outputs = network((IMAGES / 255 - torch.tensor(INFO.mean).view(3, 1, 1)) / torch.tensor(INFO.std).view(3, 1, 1))
    expected = torch.stack((outputs[:, 0] * 2 + 10, outputs[:, 2] + 20), dim=1)
    deployed = deploy(network, info)
    assert torch.allclose(deployed(IMAGES), expected, atol=1e-4)
    assert deployed.output_names == ("values",)
    assert "float32 [batch, 2]" in deployed.describe()["values"]


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_detector_answers_what_the_task_predicts(head: str) -> None:
    torch.manual_seed(0)
    model = DETR("test_resnet", 3, 7, pretrained_backbone=False, hidden_dim=32, num_heads=4, encoder_layers=1,
                 decoder_layers=2, feedforward_dim=32, class_head=head).eval()  # fmt: skip
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    deployed = deploy(model, replace(INFO, task="detection"))
    assert isinstance(deployed, DeployedDetector)
    scores, labels, boxes = deployed(images)
    predictions = model.postprocess(model(deployed.normalise(images)), torch.tensor([[64, 96], [64, 96]]))
    for index, prediction in enumerate(predictions):
        assert torch.equal(scores[index], prediction["scores"])
        assert torch.equal(labels[index], prediction["labels"])
        assert torch.allclose(boxes[index] * torch.tensor([96, 64, 96, 64]), prediction["boxes"])


def test_a_detector_without_detections_is_an_error() -> None:
    with pytest.raises(UserError, match=r"ChannelMeans has no detections\(outputs\)"):
        deploy(ChannelMeans(), replace(INFO, task="detection"))
