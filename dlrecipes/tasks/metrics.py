"""Metrics of whole images: torchmetrics' counts, under the names and conventions that a run logs.

All keep sums of a fixed size, which ranks add up exactly, whatever number of images each has seen. ``update`` takes
probabilities float32 [B, C] and labels int64 [B], or 0 and 1 [B, C] (multi-label), or values and targets [B, T].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassStatScores,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from dlrecipes.tasks.average_precision import LabelPrecision, MeanPrecision
from dlrecipes.tasks.class_metrics import BalancedLikelihood, ClassCalibrationError, g_mean, group_accuracies

__all__ = [
    "CalibrationError",
    "ClassScores",
    "NegativeLogLikelihood",
    "RegressionScores",
    "classification_metrics",
    "multilabel_metrics",
]

_NAMED_CLASSES = 100  # more than these get no column each


def classification_metrics(classes: Sequence[str], train_counts: Sequence[int] = ()) -> MetricCollection:
    """Accuracy, balanced accuracy, macro-F1, G-mean, recall of each class, macro AUPRC, calibration error and
    likelihood, both also with equal classes; top-5 accuracy for more than 20 classes; accuracy of many-, medium- and
    few-shot classes.

    Args:
        classes: names.
        train_counts: training samples of each class; without them, there is no accuracy by their number.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "scores": ClassScores(classes, train_counts),
        "auprc": MeanPrecision(len(classes)),
        "ece": CalibrationError(),
        "class_ece": ClassCalibrationError(len(classes)),
        "nll": NegativeLogLikelihood(),
        "balanced_nll": BalancedLikelihood(len(classes)),
    }
    if len(classes) > 20:
        top5 = MulticlassAccuracy(len(classes), top_k=5, average="micro", validate_args=False)
        metrics["top5_accuracy"] = top5
    return MetricCollection(metrics, compute_groups=False)


def multilabel_metrics(classes: Sequence[str]) -> MetricCollection:
    """Mean average precision, macro-F1 and share of images with all labels right at probability .5, AP of each label.

    Args:
        classes: names.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "precision": LabelPrecision(classes),
        "f1": MultilabelF1Score(len(classes), average="macro", validate_args=False),
        "subset_accuracy": MultilabelExactMatch(len(classes), validate_args=False),
    }
    return MetricCollection(metrics, compute_groups=False)


class ClassScores(MulticlassStatScores):
    """``accuracy``, ``balanced_accuracy``, ``f1``, ``g_mean`` and ``recall_class/NAME``, by scikit-learn's
    conventions, and ``accuracy_many``, ``accuracy_medium``, ``accuracy_few`` (`group_accuracies`).

    Balanced accuracy is the mean recall of the classes that the split has; macro-F1 is over classes that the split or
    the predictions have. A class that the split lacks has no recall and no entry; with more than 100 classes none has.

    Args:
        classes: names.
        train_counts: training samples of each class, or none.
    """

    def __init__(self, classes: Sequence[str], train_counts: Sequence[int] = ()) -> None:
        super().__init__(len(classes), average=None, validate_args=False)
        self.classes, self.train_counts = tuple(classes), tuple(train_counts)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]  # one number a name instead of a table
        """Metrics of all images seen."""
        tp, fp, _, fn, support = super().compute().unbind(-1)
        recall = tp / support
        f1 = 2 * tp / (2 * tp + fp + fn)
        result = {
            "accuracy": tp.sum() / support.sum(),
            "balanced_accuracy": recall.nanmean(),
            "f1": f1.nanmean(),
            "g_mean": g_mean(recall),
            **group_accuracies(recall, self.train_counts),
        }
        if len(self.classes) <= _NAMED_CLASSES:
            present = support.gt(0).tolist()
            result |= {f"recall_class/{c}": recall[i] for i, c in enumerate(self.classes) if present[i]}
        return result


class CalibrationError(Metric):
    r"""Expected calibration error: how far the confidence in the predicted class is from the share that is right.

    .. math:: \sum_b \frac{n_b}{n} \left| \frac{right_b}{n_b} - \frac{\sum_{i \in b} p_i}{n_b} \right|

    over equally wide bins of the confidence p (Naeini et al., 2015; Guo et al., 2017, arXiv:1706.04599). torchmetrics'
    own keeps every confidence.

    Args:
        bins: how many.
    """

    full_state_update = False
    right: Tensor
    count: Tensor
    confidence: Tensor

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        self.bins = bins
        for name, dtype in (("right", torch.int64), ("count", torch.int64), ("confidence", torch.float32)):
            self.add_state(name, torch.zeros(bins, dtype=dtype), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch."""
        confidence, found = probabilities.max(1)
        place = (confidence * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)  # upper edges belong to a bin
        self.right.index_add_(0, place, (found == labels).long())
        self.count.index_add_(0, place, torch.ones_like(place))
        # the batch's sum first: small numbers added one by one to a large one would be rounded away
        self.confidence += torch.zeros_like(self.confidence).index_add_(0, place, confidence)

    def compute(self) -> Tensor:
        """Of all images seen."""
        return (self.right - self.confidence).abs().sum() / self.count.sum()


class NegativeLogLikelihood(Metric):
    r"""Mean of :math:`-\log p_{label}` in nats, whatever loss the training minimises; p at least 1e-38."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch."""
        found = probabilities.gather(1, labels[:, None]).clamp_min(1e-38)
        self.total -= found.log().sum()
        self.count += len(labels)

    def compute(self) -> Tensor:
        """Of all images seen."""
        return self.total / self.count


class RegressionScores(Metric):
    """``mae``, ``rmse``, ``r2``, averaged over targets as scikit-learn does; for several ``mae_target/NAME`` and
    ``scaled_mae``, the mean of each target's MAE over its ``std``.

    Sums are over standardised values: in single precision the variance of years around 2000 would be lost. R² is that
    of scikit-learn also where a target never changes (1 if it is met, else 0), and NaN for fewer than two images.

    Args:
        names: T names of targets.
        mean, std: float32 [T], the targets' scale.
    """

    full_state_update = False
    absolute: Tensor
    squared: Tensor
    target: Tensor
    target_squared: Tensor
    count: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, names: Sequence[str], mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)
        for state in ("absolute", "squared", "target", "target_squared"):
            self.add_state(state, torch.zeros(len(names)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor, targets: Tensor) -> None:
        """Add a batch, both float [B, T] in the data's own units."""
        error = (values - targets) / self.std
        scaled = (targets - self.mean) / self.std
        self.absolute += error.abs().sum(0)
        self.squared += error.square().sum(0)
        self.target += scaled.sum(0)
        self.target_squared += scaled.square().sum(0)
        self.count += len(targets)

    def compute(self) -> dict[str, Tensor]:
        """Metrics of all images seen, in the data's own units."""
        mae = self.absolute / self.count * self.std
        rmse = (self.squared / self.count).sqrt() * self.std
        variation = (self.target_squared - self.target.square() / self.count).clamp_min(0)
        r2 = torch.where(variation > 0, 1 - self.squared / variation, (self.squared == 0).float())
        r2 = r2.where(self.count > 1, torch.nan)
        result = {"mae": mae.mean(), "rmse": rmse.mean(), "r2": r2.mean()}
        if len(self.names) > 1:
            result["scaled_mae"] = (self.absolute / self.count).mean()
            result |= {f"mae_target/{name}": value for name, value in zip(self.names, mae, strict=True)}
        return result
