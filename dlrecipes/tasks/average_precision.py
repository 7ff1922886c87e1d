"""Average precision of each class from two histograms, which have a fixed size and add up over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

__all__ = ["AveragePrecision", "LabelPrecision", "MeanPrecision"]

_COUNTS, _LEAST_BINS = 2**21, 200  # of all classes together, 8 MB; of a class
_LOWEST, _HIGHEST = -32.0, 17.0  # logits: in single precision, probabilities end at 1 - 6e-8 and go on towards 0
_NAMED_CLASSES = 100  # more than these get no column each


class AveragePrecision(Metric):
    r"""Average precision of each class against the rest: the mean over its positives of the precision at their score.

    .. math:: AP = \sum_k (R_k - R_{k-1}) P_k

    over the distinct scores in descending order, as in scikit-learn's ``average_precision_score``. Scores are
    distinguished in equal steps of their logit, since probabilities crowd near 0 and 1: .0002 with 10 classes, .02
    with 1000. torchmetrics' own thresholds are .005 apart in probability (off by up to .02 on 1000 images), or
    every score is kept.

    Args:
        num_classes: C.
    """

    full_state_update = False
    positives: Tensor
    total: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bins = max(_LEAST_BINS, _COUNTS // num_classes)
        for name in ("positives", "total"):
            counts = torch.zeros(num_classes * self.bins, dtype=torch.int32)
            self.add_state(name, counts, dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add a batch: probabilities float32 [B, C]; 0 and 1, of any dtype, [B, C]."""
        logits = torch.logit(probabilities.float().nan_to_num(0.0).clamp(0.0, 1.0)).clamp(_LOWEST, _HIGHEST)
        share = (logits - _LOWEST) / (_HIGHEST - _LOWEST)
        place = (share * self.bins).long().clamp_max(self.bins - 1)
        place = (place + torch.arange(self.num_classes, device=place.device) * self.bins).flatten()
        self.total.index_add_(0, place, torch.ones_like(place, dtype=torch.int32))
        self.positives.index_add_(0, place, truth.flatten().to(torch.int32))

    def compute(self) -> Tensor:
        """float32 [C] of all images seen; NaN for a class without a positive."""
        positives, total = (t.view(self.num_classes, -1).flip(1) for t in (self.positives, self.total))
        found, seen = positives.cumsum(1), total.cumsum(1)
        precision = found / seen.clamp_min(1)
        return (positives * precision).sum(1) / positives.sum(1)


class MeanPrecision(AveragePrecision):
    """Average precision averaged over the classes that the split has; one label an image.

    A split of one class has none: all its images are positives, and any scores would be perfect.

    Args:
        num_classes: C.
    """

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities float32 [B, C], labels int64 [B]."""
        super().update(probabilities, nn.functional.one_hot(labels, self.num_classes))

    def compute(self) -> Tensor:
        """Mean over classes; NaN for a split of fewer than two."""
        precision = super().compute()
        return precision.nanmean() if precision.isfinite().sum() > 1 else precision.new_tensor(torch.nan)


class LabelPrecision(AveragePrecision):
    """``map`` and ``ap_class/NAME``: average precision of each label that the split has.

    Args:
        classes: names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(len(classes))
        self.classes = tuple(classes)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]  # one number a name
        """Metrics of all images seen."""
        precision = super().compute()
        result = {"map": precision.nanmean()}
        if len(self.classes) <= _NAMED_CLASSES:
            present = precision.isfinite().tolist()
            result |= {f"ap_class/{c}": precision[i] for i, c in enumerate(self.classes) if present[i]}
        return result
