"""Metrics against scikit-learn and torchmetrics, over several batches, with a class that the split lacks."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from dlrecipes.tasks.metrics import (
    CalibrationError,
    NegativeLogLikelihood,
    RegressionScores,
    classification_metrics,
    multilabel_metrics,
)

CLASSES = tuple("abcdef")


def guesses(count: int = 240, missing: int | None = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities that are right more often than not; class ``missing`` is sometimes predicted and never true."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 6, (count,), generator=generator)
    labels[labels == missing] = 0
    logits = torch.randn(count, 6, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    return logits.softmax(1), labels


def in_batches(metric, predictions: Tensor, targets: Tensor):  # type: ignore[no-untyped-def]
    for p, t in zip(predictions.split(50), targets.split(50), strict=True):
        metric.update(p, t)
    return metric.compute()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_one_label_equals_scikit_learn() -> None:
    probabilities, labels = guesses()
    found = in_batches(classification_metrics(CLASSES), probabilities, labels)
    y, p = labels.numpy(), probabilities.argmax(1).numpy()
    assert (p == 2).any()
    assert found["accuracy"].item() == pytest.approx(sk.accuracy_score(y, p))
    assert found["balanced_accuracy"].item() == pytest.approx(sk.balanced_accuracy_score(y, p))
    assert found["f1"].item() == pytest.approx(sk.f1_score(y, p, average="macro"))
    assert found["nll"].item() == pytest.approx(sk.log_loss(y, probabilities.numpy(), labels=range(6)))
    recall = sk.recall_score(y, p, average=None, labels=range(6), zero_division=np.nan)
    named = {f"recall_class/{c}": r for c, r in zip(CLASSES, recall, strict=True) if not np.isnan(r)}
    assert len(named) == 5
    assert {n: v.item() for n, v in found.items() if n.startswith("recall")} == pytest.approx(named)
    exact = [sk.average_precision_score(y == c, probabilities[:, c]) for c in range(6) if c != 2]
    assert found["auprc"].item() == pytest.approx(np.mean(exact), abs=1e-5)


@pytest.mark.parametrize("bins", [15, 4])
def test_calibration_error_equals_torchmetrics(bins: int) -> None:
    probabilities, labels = guesses()
    expected = MulticlassCalibrationError(6, n_bins=bins, norm="l1")(probabilities, labels)
    assert in_batches(CalibrationError(bins), probabilities, labels).item() == pytest.approx(expected.item(), abs=1e-6)


def test_certain_and_wrong_is_finite() -> None:
    metric = NegativeLogLikelihood()
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert metric.compute().item() == pytest.approx(-np.log(1e-38), rel=1e-4)


def test_top5_for_many_classes_and_no_columns_for_more_than_a_hundred() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(300, 120, generator=generator).softmax(1)
    labels = torch.randint(0, 120, (300,), generator=generator)
    probabilities[torch.arange(150), labels[:150]] += 1
    found = in_batches(classification_metrics([str(i) for i in range(120)]), probabilities, labels)
    expected = sk.top_k_accuracy_score(labels, probabilities, k=5, labels=range(120))
    assert found["top5_accuracy"].item() == pytest.approx(expected)
    assert not [name for name in found if name.startswith("recall_class")]


def test_several_labels_equal_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = (torch.rand(240, 6, generator=generator) > 0.7).long()
    targets[:, 2] = 0
    probabilities = (0.4 * targets + torch.rand(240, 6, generator=generator) * 0.6).clamp(0, 1)
    found = in_batches(multilabel_metrics(CLASSES), probabilities, targets)
    y, p = targets.numpy(), (probabilities > 0.5).numpy()
    assert found["f1"].item() == pytest.approx(sk.f1_score(y, p, average="macro", zero_division=0))
    assert found["subset_accuracy"].item() == pytest.approx(sk.accuracy_score(y, p))
    exact = {c: sk.average_precision_score(y[:, i], probabilities[:, i]) for i, c in enumerate(CLASSES) if i != 2}
    assert found["map"].item() == pytest.approx(np.mean(list(exact.values())), abs=1e-4)
    named = {n.removeprefix("ap_class/"): v.item() for n, v in found.items() if n.startswith("ap_class/")}
    assert named == pytest.approx(exact, abs=1e-4)


def test_numbers_equal_scikit_learn_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(2)
    targets = torch.randn(240, 2, generator=generator) * torch.tensor([10.0, 0.02]) + torch.tensor([2000.0, 5.0])
    values = targets + torch.randn(240, 2, generator=generator) * torch.tensor([6.0, 0.01])
    metric = RegressionScores(("year", "price"), torch.tensor([1990.0, 5.01]), torch.tensor([12.0, 0.03]))
    found = in_batches(metric, values, targets)
    y, p = targets.double().numpy(), values.double().numpy()
    assert found["mae"].item() == pytest.approx(sk.mean_absolute_error(y, p), rel=1e-4)
    assert found["rmse"].item() == pytest.approx(sk.root_mean_squared_error(y, p), rel=1e-4)
    assert found["r2"].item() == pytest.approx(sk.r2_score(y, p), abs=1e-4)
    each = sk.mean_absolute_error(y, p, multioutput="raw_values")
    assert [found[f"mae_target/{n}"].item() for n in ("year", "price")] == pytest.approx(each, rel=1e-4)
    assert found["scaled_mae"].item() == pytest.approx((each / [12.0, 0.03]).mean(), rel=1e-4)


@pytest.mark.parametrize(("values", "expected"), [([3.0, 3.0], 1.0), ([3.0, 4.0], 0.0), ([3.0], float("nan"))])
def test_a_target_that_never_changes(values: list[float], expected: float) -> None:
    metric = RegressionScores(("x",), torch.tensor([3.0]), torch.tensor([1.0]))
    metric.update(torch.tensor(values)[:, None], torch.full((len(values), 1), 3.0))
    assert metric.compute()["r2"].item() == pytest.approx(expected, nan_ok=True)
    assert "mae_target/x" not in metric.compute()
