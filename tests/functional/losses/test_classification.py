"""Losses over exclusive classes against torch, and what they must be in special cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses import (
    bi_tempered_loss,
    cross_entropy,
    focal_loss,
    generalized_cross_entropy,
    logit_adjusted_cross_entropy,
    poly1_loss,
    symmetric_cross_entropy,
    tempered_log_softmax,
)

CLASSES = 5
LOSSES = [
    cross_entropy,
    focal_loss,
    poly1_loss,
    generalized_cross_entropy,
    symmetric_cross_entropy,
    bi_tempered_loss,
    lambda x, y, **options: logit_adjusted_cross_entropy(x, y, torch.arange(1, CLASSES + 1), **options),
]


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(12, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(CLASSES, (12,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def soft() -> Tensor:
    return torch.rand(12, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1, 2, 3, 0.1], dtype=torch.float64)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_of_labels_is_torchs(
    logits: Tensor, labels: Tensor, weight: Tensor | None, label_smoothing: float, ignore_index: int, reduction: str
) -> None:
    options = {"weight": weight, "label_smoothing": label_smoothing, "reduction": reduction}
    expected = F.cross_entropy(logits, labels, ignore_index=ignore_index, **options)
    torch.testing.assert_close(cross_entropy(logits, labels, ignore_index=ignore_index, **options), expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_cross_entropy_of_soft_targets_is_torchs(
    logits: Tensor, soft: Tensor, label_smoothing: float, reduction: str
) -> None:
    expected = F.cross_entropy(logits, soft, label_smoothing=label_smoothing, reduction=reduction)
    value = cross_entropy(logits, soft, label_smoothing=label_smoothing, reduction=reduction)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_one_hot_targets_are_labels(loss: object, logits: Tensor, labels: Tensor, reduction: str) -> None:
    one_hot = F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(loss(logits, one_hot, reduction=reduction), loss(logits, labels, reduction=reduction))


@pytest.mark.parametrize("loss", [cross_entropy, focal_loss])
def test_one_hot_targets_are_labels_with_class_weights_too(loss: object, logits: Tensor, labels: Tensor) -> None:
    weight = torch.tensor([0.5, 1, 2, 3, 0.1])
    one_hot = F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(loss(logits, one_hot, weight=weight), loss(logits, labels, weight=weight))


@pytest.mark.parametrize("loss", [cross_entropy, focal_loss, poly1_loss, bi_tempered_loss, LOSSES[-1]])
def test_smoothed_labels_are_soft_targets(loss: object, logits: Tensor, labels: Tensor) -> None:
    smoothed = 0.8 * F.one_hot(labels, CLASSES).double() + 0.2 / CLASSES
    torch.testing.assert_close(loss(logits, labels, label_smoothing=0.2), loss(logits, smoothed))


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_elements_are_as_if_absent(loss: object, logits: Tensor, labels: Tensor) -> None:
    gaps = torch.where(torch.arange(12) % 3 == 0, -100, labels)
    known = gaps != -100
    torch.testing.assert_close(loss(logits, gaps), loss(logits[known], labels[known]))
    assert not loss(logits, gaps, reduction="none")[~known].any()
    assert loss(logits, torch.full_like(labels, -100)).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_pixels_are_samples(loss: object, logits: Tensor, labels: Tensor, soft: Tensor) -> None:
    image = logits.reshape(2, 2, 3, CLASSES).movedim(-1, 1)
    flat = loss(logits, labels, reduction="none")
    torch.testing.assert_close(loss(image, labels.reshape(2, 2, 3), reduction="none").flatten(), flat)
    soft_image = soft.reshape(2, 2, 3, CLASSES).movedim(-1, 1)
    torch.testing.assert_close(loss(image, soft_image), loss(logits, soft))
    weighted = loss(image, labels.reshape(2, 2, 3), sample_weight=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(weighted, flat[6:].mean())


@pytest.mark.parametrize("targets", ["labels", "soft"])
def test_special_cases_are_cross_entropy(logits: Tensor, targets: str, request: pytest.FixtureRequest) -> None:
    y = request.getfixturevalue(targets)
    expected = cross_entropy(logits, y)
    torch.testing.assert_close(focal_loss(logits, y, gamma=0.0), expected)
    torch.testing.assert_close(poly1_loss(logits, y, epsilon=0.0), expected)
    torch.testing.assert_close(generalized_cross_entropy(logits, y, q=1e-7), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(symmetric_cross_entropy(logits, y, alpha=1.0, beta=0.0), expected)
    torch.testing.assert_close(logit_adjusted_cross_entropy(logits, y, torch.rand(CLASSES), tau=0.0), expected)
    entropy = 0 if targets == "labels" else torch.special.entr(y).sum(1).mean()
    torch.testing.assert_close(bi_tempered_loss(logits, y, t1=1.0, t2=1.0), expected - entropy)
    nearly = bi_tempered_loss(logits, y, t1=1 - 1e-6, t2=1 + 1e-6)
    torch.testing.assert_close(nearly, expected - entropy, rtol=1e-4, atol=0)


def test_generalised_cross_entropy_with_q_one_is_half_the_absolute_error(logits: Tensor, labels: Tensor) -> None:
    error = (logits.softmax(1) - F.one_hot(labels, CLASSES)).abs().sum(1)
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, q=1.0, reduction="none"), error / 2)


def test_symmetric_cross_entropy_bounds_its_reverse_term() -> None:
    hopeless = torch.tensor([[-1e4, 1e4]])
    reverse = symmetric_cross_entropy(hopeless, torch.tensor([0]), alpha=0.0, log_zero=-6.0)
    torch.testing.assert_close(reverse, torch.tensor(6.0))


def test_bi_tempered_loss_is_bounded_and_zero_where_prediction_and_target_agree(logits: Tensor) -> None:
    hopeless = torch.tensor([[-1e4, 1e4]])
    assert bi_tempered_loss(hopeless, torch.tensor([0]), t1=0.5, t2=1.0) <= 1 / 0.5 + 1 / 1.5
    agreed = tempered_log_softmax(logits, 1.3).exp()
    torch.testing.assert_close(bi_tempered_loss(logits, agreed, t1=0.6, t2=1.3), torch.tensor(0.0).double())
    assert bi_tempered_loss(logits + torch.arange(CLASSES), agreed, t1=0.6, t2=1.3) > 0.01


@pytest.mark.parametrize("t", [1.0, 1.0001, 1.05, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 1e4])
def test_heavy_tailed_softmax_sums_to_one(t: float, classes: int, scale: float) -> None:
    logits = scale * torch.randn(8, classes, generator=torch.Generator().manual_seed(0))
    for x, tolerance in ((logits.double(), 1e-11), (logits, 2e-5)):
        p = tempered_log_softmax(x, t).exp()
        assert (p.sum(1) - 1).abs().max() < tolerance
    order = logits.double().argsort(1)
    assert (tempered_log_softmax(logits.double(), t).gather(1, order).diff(dim=1) >= 0).all()


@pytest.mark.parametrize("t", [1.0001, 1.2, 3.0])
def test_heavy_tailed_softmax_has_the_gradient_of_its_normaliser(t: float, logits: Tensor) -> None:
    assert torch.autograd.gradcheck(lambda x: tempered_log_softmax(x, t), logits[:3].requires_grad_())


def test_logit_adjustment_asks_for_balanced_logits() -> None:
    """The best constant logits for classes at 80 : 20 are level: the prior explains the rest."""
    logits = torch.zeros(1, 2, requires_grad=True)
    targets = torch.tensor([[0.8, 0.2]])
    logit_adjusted_cross_entropy(logits, targets, torch.tensor([80, 20])).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 2))


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
def test_focal_loss_of_a_certain_sample_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), gamma=gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(4), torch.zeros(4).long(), r"logits has shape \[4\]"),
        (torch.zeros(4, CLASSES), torch.zeros(4), r"targets has shape \[4\] and dtype torch.float32"),
        (torch.zeros(4, CLASSES), torch.zeros(4, 3), r"need int64 labels of shape \[4\], or probabilities"),
        (torch.zeros(4, CLASSES), torch.zeros(4, CLASSES).long(), r"dtype torch.int64"),
        (torch.zeros(4, CLASSES, 2), torch.zeros(4).long(), r"labels of shape \[4, 2\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(loss: object, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(x, y)
