"""COCO's metrics of a detector, as COCO's own tool computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

__all__ = ["coco_metric", "named_metrics"]

_METRICS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")


def coco_metric() -> MeanAveragePrecision:
    """A metric with ``update(predictions, targets)`` in pixels, for all images on one process.

    Example:
        >>> import torch
        >>> box, label = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([2])
        >>> metric = coco_metric()
        >>> metric.update([{"boxes": box, "labels": label, "scores": torch.tensor([0.5])}],
        ...               [{"boxes": box, "labels": label}])
        >>> found = named_metrics(metric.compute(), ("cat", "dog", "hen"))
        >>> round(float(found["map"]), 3), round(float(found["map_class/hen"]), 3)
        (1.0, 1.0)
    """
    # torchmetrics' own thresholds are float32: a recall of exactly .1 then falls on the wrong side of .1
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
        backend="faster_coco_eval",
        class_metrics=True,
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False  # COCO counts the best 100 of an image; the data's notes say so
    return metric


def named_metrics(values: Mapping[str, Tensor], classes: Sequence[str]) -> dict[str, Tensor]:
    """What a metric has computed, under the names that are logged: ``map``, ``map_50`` ..., ``map_class/NAME``.

    Args:
        values: torchmetrics' result.
        classes: names; position = label. Empty: no class is named.
    """
    named = {name: values[name].float() for name in _METRICS if name in values}
    per_class, labels = values.get("map_per_class"), values.get("classes")
    if per_class is None or labels is None or per_class.numel() < 1:
        return named
    found = dict(zip(labels.reshape(-1).tolist(), per_class.reshape(-1), strict=False))
    return named | {f"map_class/{name}": found[i].float() for i, name in enumerate(classes) if i in found}
