"""Losses for rare classes: what they must be in special cases, and torch's likelihoods."""

import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor

from dlrecipes.functional.losses import (
    cross_entropy,
    distillation_loss,
    distribution_balanced_loss,
    label_aware_smoothing,
    label_aware_smoothing_loss,
    ldam_loss,
    ldam_margins,
    logit_adjusted_cross_entropy,
    post_hoc_logit_adjustment,
    rebalanced_weights,
    seesaw_loss,
    vector_scaling_loss,
)

CLASSES = 5
COUNTS = torch.tensor([500, 120, 60, 9, 1])
ALL = [
    lambda x, y, **options: ldam_loss(x, y, COUNTS, **options),
    lambda x, y, **options: seesaw_loss(x, y, COUNTS, **options),
    lambda x, y, **options: vector_scaling_loss(x, y, COUNTS, **options),
    lambda x, y, **options: label_aware_smoothing_loss(x, y, label_aware_smoothing(COUNTS), **options),
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


@pytest.mark.parametrize("targets", ["labels", "soft"])
def test_special_cases_are_cross_entropy(logits: Tensor, targets: str, request: pytest.FixtureRequest) -> None:
    y = request.getfixturevalue(targets)
    expected = cross_entropy(logits, y)
    same = torch.full((CLASSES,), 70)
    torch.testing.assert_close(ldam_loss(logits, y, COUNTS, max_margin=0.0, scale=1.0), expected)
    torch.testing.assert_close(ldam_loss(logits, y, COUNTS, max_margin=0.0, scale=3.0), cross_entropy(3 * logits, y))
    torch.testing.assert_close(seesaw_loss(logits, y, COUNTS, p=0.0, q=0.0), expected)
    torch.testing.assert_close(seesaw_loss(logits, y, same, p=2.0, q=0.0), expected)
    torch.testing.assert_close(logit_adjusted_cross_entropy(logits, y, same), expected)  # balanced softmax
    torch.testing.assert_close(vector_scaling_loss(logits, y, same, gamma=0.7, tau=1.3), expected)
    torch.testing.assert_close(label_aware_smoothing_loss(logits, y, torch.zeros(CLASSES)), expected)


def test_one_smoothing_for_all_is_label_smoothing(logits: Tensor, labels: Tensor) -> None:
    value = label_aware_smoothing_loss(logits, labels, torch.full((CLASSES,), 0.25))
    torch.testing.assert_close(value, F.cross_entropy(logits, labels, label_smoothing=0.25))


def test_vector_scaling_without_scaling_is_logit_adjustment(logits: Tensor, labels: Tensor) -> None:
    value = vector_scaling_loss(logits, labels, COUNTS, gamma=0.0, tau=1.7)
    torch.testing.assert_close(value, logit_adjusted_cross_entropy(logits, labels, COUNTS, tau=1.7))


@pytest.mark.parametrize("loss", ALL)
def test_one_hot_targets_are_labels(loss: object, logits: Tensor, labels: Tensor) -> None:
    one_hot = F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(loss(logits, one_hot, reduction="none"), loss(logits, labels, reduction="none"))


@pytest.mark.parametrize("loss", ALL)
def test_soft_targets_mix_the_losses_of_labels_as_mixup_does(loss: object, logits: Tensor, labels: Tensor) -> None:
    first, second = F.one_hot(labels, CLASSES).double(), F.one_hot(labels.flip(0), CLASSES).double()
    mixed = 0.3 * loss(logits, labels) + 0.7 * loss(logits, labels.flip(0))
    torch.testing.assert_close(loss(logits, 0.3 * first + 0.7 * second), mixed)


def test_margins_are_the_fourth_root_and_their_maximum_is_given() -> None:
    margins = ldam_margins(torch.tensor([5000.0, 312.5, 19.53125], dtype=torch.float64), 0.6)
    torch.testing.assert_close(margins, torch.tensor([0.15, 0.3, 0.6], dtype=torch.float64))


def test_a_margin_keeps_its_digits_where_the_label_is_certain() -> None:
    """1 - p is 0 in float32 there, and so would its logarithm be minus infinity."""
    logits = torch.tensor([[90.0, 0.0, -1.0]], requires_grad=True)
    loss = ldam_loss(logits, torch.tensor([0]), torch.tensor([10, 10, 10]), max_margin=0.5, scale=1.0)
    loss.backward()
    assert loss.item() == pytest.approx((1 + torch.e**-1) * torch.e**-89.5, rel=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_of_seesaw_takes_the_weights_as_constants(logits: Tensor, labels: Tensor) -> None:
    """As the paper trains it: the softmax gradient of the logits shifted by log S."""
    x = logits.clone().requires_grad_()
    seesaw_loss(x, labels, COUNTS, reduction="sum").backward()
    shift = torch.zeros_like(logits)
    p = logits.softmax(1)
    for k, i in enumerate(labels.tolist()):
        for j in range(CLASSES):
            if j != i:
                ratio = p[k, j] / p[k, i].clamp(min=0.01)
                shift[k, j] = 0.8 * (COUNTS[j] / COUNTS[i]).clamp(max=1).log() + 2.0 * ratio.clamp(min=1).log()
    expected = (logits + shift).softmax(1) - F.one_hot(labels, CLASSES)
    torch.testing.assert_close(x.grad, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "middle"), [("concave", 0.3 / 2**0.5), ("linear", 0.15), ("convex", 0.3 * (1 - 1 / 2**0.5))]
)
def test_shapes_of_smoothing(shape: str, middle: float) -> None:
    epsilon = label_aware_smoothing(torch.tensor([101.0, 51.0, 1.0]), head=0.3, tail=0.0, shape=shape)
    torch.testing.assert_close(epsilon, torch.tensor([0.3, middle, 0.0]))


def test_classes_that_are_all_as_frequent_are_not_smoothed() -> None:
    assert label_aware_smoothing(torch.tensor([7, 7]), head=0.3, tail=0.1).tolist() == pytest.approx([0.1, 0.1])


def test_post_hoc_adjustment_is_bayes_rule() -> None:
    """A network that knows p(class | x) of the training set, asked for another set's."""
    prior, target = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    likelihood = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.8, 0.4]])
    logits = (likelihood * prior).log() + 5
    balanced = post_hoc_logit_adjustment(logits, prior).softmax(1)
    torch.testing.assert_close(balanced, likelihood / likelihood.sum(1, keepdim=True))
    moved = post_hoc_logit_adjustment(logits, prior, target_prior=target).softmax(1)
    torch.testing.assert_close(moved, likelihood * target / (likelihood * target).sum(1, keepdim=True))


def test_post_hoc_adjustment_undoes_the_loss_s(logits: Tensor, labels: Tensor) -> None:
    adjusted = post_hoc_logit_adjustment(logits, COUNTS, tau=1.5)
    torch.testing.assert_close(
        logit_adjusted_cross_entropy(adjusted, labels, COUNTS, tau=1.5), cross_entropy(logits, labels)
    )
    torch.testing.assert_close(
        post_hoc_logit_adjustment(logits.reshape(2, 6, 5).movedim(-1, 1), COUNTS, tau=1.5),
        adjusted.reshape(2, 6, 5).movedim(-1, 1),
    )


def test_distribution_balanced_without_its_parts_is_binary_cross_entropy(logits: Tensor, soft: Tensor) -> None:
    targets = (soft > 0.2).double()
    value = distribution_balanced_loss(
        logits, targets, COUNTS, 600, alpha=0.5, beta=0.0, kappa=0.0, negative_scale=1.0, gamma=0.0
    )
    torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(logits, targets))


def test_rebalanced_weights_by_hand() -> None:
    """One label: its share is 1. Two labels of 90 and 10 samples: 1/90 of 10/90."""
    weights = rebalanced_weights(
        torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), torch.tensor([90, 10]), alpha=0.1, beta=10.0, mu=0.2
    )
    shares = torch.tensor([[1 / 9, 1.0], [0.1, 0.9]])
    torch.testing.assert_close(weights[:2], 0.1 + torch.sigmoid(10 * (shares - 0.2)))
    torch.testing.assert_close(weights[2], torch.tensor([1.1, 1.1]))


def test_labels_that_none_or_all_samples_have_stay_finite() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = distribution_balanced_loss(logits, torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 50]), 50)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_distillation_at_temperature_one_is_the_divergence(logits: Tensor, soft: Tensor) -> None:
    value = distillation_loss(logits, soft.log(), temperature=1.0)
    expected = F.kl_div(logits.log_softmax(1), soft, reduction="batchmean")
    torch.testing.assert_close(value, expected)
    assert distillation_loss(logits, logits + 7.0, temperature=3.0).item() == pytest.approx(0, abs=1e-12)


def test_distillation_at_high_temperature_is_the_squared_distance_of_centred_logits(logits: Tensor) -> None:
    """Hinton et al., section 2.1: the limit, up to the number of classes."""
    teacher = logits.flip(0)
    difference = (logits - logits.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = difference.square().sum(1).mean() / (2 * CLASSES)
    torch.testing.assert_close(distillation_loss(logits, teacher, temperature=1e4), expected, rtol=2e-3, atol=0)


def test_distillation_lets_no_gradient_into_the_teacher(logits: Tensor) -> None:
    student, teacher = logits.clone().requires_grad_(), logits.flip(0).requires_grad_()
    distillation_loss(student, teacher, temperature=2.0, reduction="sum").backward()
    assert teacher.grad is None
    p, q = (torch.from_numpy(softmax(x.detach().numpy() / 2, 1)) for x in (teacher, student))
    torch.testing.assert_close(student.grad, 2 * (q - p))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ldam_loss(x, torch.zeros(2).long(), COUNTS[:3]), r"counts has shape \[3\]: .* \[5\]"),
        (lambda x: seesaw_loss(x, torch.zeros(2).long(), COUNTS[:3]), r"counts has shape \[3\]: .* \[5\]"),
        (lambda x: vector_scaling_loss(x, torch.zeros(2).long(), COUNTS[:3]), r"counts has shape \[3\]: .* \[5\]"),
        (lambda x: post_hoc_logit_adjustment(x, COUNTS[:3]), r"prior has shape \[3\]: .* \[5\]"),
        (lambda x: post_hoc_logit_adjustment(x, COUNTS, target_prior=COUNTS[:3]), r"target_prior has shape \[3\]"),
        (lambda x: label_aware_smoothing_loss(x, torch.zeros(2).long(), torch.ones(3)), r"smoothing has shape \[3\]"),
        (lambda x: label_aware_smoothing(COUNTS, shape="round"), "shape is 'round': use 'concave'"),
        (lambda x: distribution_balanced_loss(x, x, COUNTS[:3], 9), r"counts has shape \[3\]"),
        (lambda x: distillation_loss(x, x, temperature=0.0), "temperature is 0.0"),
        (lambda x: distillation_loss(x[0], x[0]), r"logits has shape \[5\]"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, CLASSES))
