"""Metrics with equal classes against torchmetrics, scikit-learn and figures by hand, over several batches."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, recall_score
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from dlrecipes.tasks.class_metrics import BalancedLikelihood, ClassCalibrationError, g_mean, group_accuracies
from dlrecipes.tasks.metrics import NegativeLogLikelihood, classification_metrics


def guesses(seed: int = 0, missing: int = 2) -> tuple[Tensor, Tensor]:
    """A long tail in which class ``missing`` is predicted and never true."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([60.0, 25.0, 9.0, 4.0, 2.0]), 240, replacement=True, generator=generator)
    labels[labels == missing] = 0
    logits = torch.randn(240, 5, generator=generator)
    logits[torch.arange(240), labels] += 1.5
    return logits.softmax(1), labels


def in_batches(metric, probabilities: Tensor, labels: Tensor):  # type: ignore[no-untyped-def]
    for p, t in zip(probabilities.split(50), labels.split(50), strict=True):
        metric.update(p, t)
    return metric.compute()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [15, 4])
def test_class_calibration_is_the_mean_of_torchmetrics_binary_one(seed: int, bins: int) -> None:
    probabilities, labels = guesses(seed)
    single = [BinaryCalibrationError(bins, norm="l1")(probabilities[:, c], (labels == c).long()) for c in range(5)]
    found = in_batches(ClassCalibrationError(5, bins), probabilities, labels)
    assert found.item() == pytest.approx(torch.stack(single).mean().item(), abs=1e-6)


def test_perfectly_calibrated_is_zero_and_sure_mistakes_are_not() -> None:
    metric = ClassCalibrationError(2)
    metric.update(torch.tensor([[0.75, 0.25]]).repeat(4, 1), torch.tensor([0, 0, 0, 1]))
    assert metric.compute().item() == pytest.approx(0.0, abs=1e-7)
    metric.reset()
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert metric.compute().item() == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_balanced_likelihood_weighs_images_by_their_class(seed: int) -> None:
    probabilities, labels = guesses(seed)
    exact = probabilities.double() / probabilities.double().sum(1, keepdim=True)
    weights = 1 / np.bincount(labels, minlength=5).clip(1)[labels]
    expected = log_loss(labels, exact, sample_weight=weights, labels=range(5))
    assert in_batches(BalancedLikelihood(5), probabilities, labels).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_likelihood_is_the_plain_one_of_balanced_data() -> None:
    probabilities, labels = guesses()[0][:200], torch.arange(200) % 5
    plain = in_batches(NegativeLogLikelihood(), probabilities, labels)
    assert in_batches(BalancedLikelihood(5), probabilities, labels).item() == pytest.approx(plain.item(), rel=1e-6)


def test_certain_and_wrong_is_finite() -> None:
    metric = BalancedLikelihood(2)
    metric.update(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), torch.tensor([1]))
    assert metric.compute().item() == pytest.approx(-math.log(1e-38), rel=1e-2)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_collection_has_them_all() -> None:
    probabilities, labels = guesses()
    found = in_batches(classification_metrics("abcde", [600, 250, 90, 40, 12]), probabilities, labels)
    recall = recall_score(labels, probabilities.argmax(1), average=None, labels=range(5), zero_division=np.nan)
    assert found["g_mean"].item() == pytest.approx(np.prod(recall[[0, 1, 3, 4]]) ** 0.25)
    assert found["accuracy_many"].item() == pytest.approx(recall[:2].mean())
    assert found["accuracy_medium"].item() == pytest.approx(recall[3])  # class 2 is not in the split
    assert found["accuracy_few"].item() == pytest.approx(recall[4])
    assert {"class_ece", "balanced_nll"} <= set(found)


def test_g_mean_of_a_class_that_is_never_found_is_zero() -> None:
    assert g_mean(torch.tensor([1.0, 0.0, 0.5])).item() == 0.0
    assert g_mean(torch.tensor([0.9, 0.9])).item() == pytest.approx(0.9)


@pytest.mark.parametrize("counts", [(), (500, 400, 300), (500, 40)])
def test_no_groups_where_there_is_nothing_to_compare(counts: tuple[int, ...]) -> None:
    assert group_accuracies(torch.tensor([1.0, 0.5, 0.0]), counts) == {}


def test_a_group_that_the_split_lacks_has_no_entry() -> None:
    groups = group_accuracies(torch.tensor([1.0, torch.nan, 0.5]), (500, 40, 5))
    assert {name: value.item() for name, value in groups.items()} == {"accuracy_many": 1.0, "accuracy_few": 0.5}
