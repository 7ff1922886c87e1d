"""Losses on sigmoids against torch, torchvision and timm, and what they must be in special cases."""

import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from timm.loss import BinaryCrossEntropy as TimmBCE
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from dlrecipes.functional.losses import asymmetric_loss, binary_cross_entropy, sigmoid_focal_loss

LOSSES = [binary_cross_entropy, sigmoid_focal_loss, asymmetric_loss]


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> Tensor:
    return torch.randint(2, (12, 5), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("pos_weight", [None, torch.tensor([0.5, 1, 2, 3, 0.1])])
def test_binary_cross_entropy_is_torchs(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None, reduction: str
) -> None:
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction=reduction)
    value = binary_cross_entropy(logits, targets, pos_weight=pos_weight, reduction=reduction)
    torch.testing.assert_close(value, expected)


def test_binary_cross_entropy_of_labels_is_timms(logits: Tensor) -> None:
    labels = torch.arange(12) % 5
    torch.testing.assert_close(binary_cross_entropy(logits, labels), TimmBCE(smoothing=0.0)(logits, labels))


def test_smoothed_targets(logits: Tensor, targets: Tensor) -> None:
    smoothed = torch.where(targets == 1, 0.9, 0.1)
    value = binary_cross_entropy(logits, targets, label_smoothing=0.2)
    torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(logits, smoothed))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.9, 0.5), (None, 1.0), (0.4, 0.0)])
def test_focal_loss_is_torchvisions(
    logits: Tensor, targets: Tensor, alpha: float | None, gamma: float, reduction: str
) -> None:
    theirs = -1 if alpha is None else alpha
    expected = torchvision_focal(logits, targets, alpha=theirs, gamma=gamma, reduction=reduction)
    value = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction=reduction)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("gamma_pos", "gamma_neg", "clip"), [(0.0, 4.0, 0.05), (1.0, 4.0, 0.2), (0.0, 2.0, 0.0)])
def test_asymmetric_loss_is_timms_of_one_sample(
    logits: Tensor, targets: Tensor, gamma_pos: float, gamma_neg: float, clip: float
) -> None:
    logits, targets = logits.reshape(1, -1), targets.reshape(1, -1)  # timm's versions divide by the batch or not
    expected = AsymmetricLossMultiLabel(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)(logits, targets)
    options = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "clip": clip}
    torch.testing.assert_close(asymmetric_loss(logits, targets, reduction="sum", **options), expected)


def test_special_cases_are_binary_cross_entropy(logits: Tensor, targets: Tensor) -> None:
    expected = binary_cross_entropy(logits, targets)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=None, gamma=0.0), expected)
    torch.testing.assert_close(asymmetric_loss(logits, targets, gamma_pos=0, gamma_neg=0, clip=0), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_soft_targets_mix_what_hard_targets_cost(loss: object, logits: Tensor) -> None:
    positive = loss(logits, torch.ones_like(logits), reduction="none")
    negative = loss(logits, torch.zeros_like(logits), reduction="none")
    mixed = loss(logits, torch.full_like(logits, 0.3), reduction="none")
    torch.testing.assert_close(mixed, 0.3 * positive + 0.7 * negative)


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_are_one_yes_among_noes(loss: object, logits: Tensor) -> None:
    labels = torch.arange(12) % 5
    torch.testing.assert_close(loss(logits, labels), loss(logits, torch.eye(5)[labels]))
    for dtype in (torch.int32, torch.uint8):
        assert loss(logits, labels.to(dtype)) == loss(logits, labels)


def test_a_negative_below_the_clip_costs_nothing() -> None:
    value = asymmetric_loss(torch.tensor([-4.0]), torch.tensor([0.0]), clip=0.05)  # sigmoid(-4) is 0.018
    assert value.item() < 1e-12


@pytest.mark.parametrize("gamma", [0.25, 0.5])
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_roots_have_finite_gradients(gamma: float, logit: float) -> None:
    logits = torch.full((2,), logit, requires_grad=True)
    targets = torch.tensor([0.0, 1.0])
    value = sigmoid_focal_loss(logits, targets, gamma=gamma) + asymmetric_loss(
        logits, targets, gamma_pos=gamma, gamma_neg=gamma
    )
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_targets_of_another_shape_are_named(loss: object, logits: Tensor) -> None:
    with pytest.raises(ValueError, match=r"targets has shape \[12\], but logits has \[12, 5\]"):
        loss(logits, torch.ones(12))


def test_weights_of_another_number_of_classes_are_named(logits: Tensor, targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"pos_weight has shape \[3\]: give one weight a class, \[5\]"):
        binary_cross_entropy(logits, targets, pos_weight=torch.ones(3))
