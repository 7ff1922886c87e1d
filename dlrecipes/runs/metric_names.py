"""How metrics are called, ordered and written for people: on the console, in curves, reports and model cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = [
    "DETECTION_HEADLINE",
    "format_value",
    "is_measured",
    "metric_title",
    "panel_of",
    "summarise",
    "with_split",
]

DETECTION_HEADLINE = ("map", "map_50", "map_75")
_TITLES = {
    "loss": "loss",
    "map": "mAP",
    "map_50": "mAP50",
    "map_75": "mAP75",
    "map_small": "mAP small",
    "map_medium": "mAP medium",
    "map_large": "mAP large",
    "mar_100": "AR100",
    "accuracy": "accuracy",
    "top5_accuracy": "accuracy, top 5",
    "balanced_accuracy": "balanced accuracy",
    "subset_accuracy": "all labels right",
    "precision": "precision, macro",
    "recall": "recall, macro",
    "f1": "F1, macro",
    "auprc": "AUPRC, macro",
    "auroc": "AUROC, macro",
    "ece": "calibration error",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "g_mean": "G-mean",
    "class_ece": "calibration error, class mean",
    "balanced_nll": "negative log-likelihood, class mean",
    "accuracy_many": "accuracy, many images",
    "accuracy_medium": "accuracy, medium",
    "accuracy_few": "accuracy, few images",
    "matched_iou": "IoU of matched boxes",
    "mae": "MAE",
    "scaled_mae": "MAE in standard deviations",
    "rmse": "RMSE",
    "mse": "MSE",
    "r2": "R²",
}
_DETECTION = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
_ERRORS = ("mae", "scaled_mae", "rmse", "mse", "nll", "balanced_nll", "loss")  # without an upper end; smaller is better


def metric_title(name: str) -> str:
    """A metric for a reader, without its split; a metric of the user's own keeps its name.

    >>> metric_title("val/map_50"), metric_title("balanced_accuracy"), metric_title("val/my_score")
    ('mAP50', 'balanced accuracy', 'my_score')
    """
    short = name.partition("/")[2] or name
    return _TITLES.get(short, short)


def with_split(split: str, headline: Sequence[str]) -> tuple[str, ...]:
    """The names under which a task logs its headline metrics; one that has a split keeps it.

    >>> with_split("val", ("mae", "train/accuracy"))
    ('val/mae', 'train/accuracy')
    """
    return tuple(name if "/" in name else f"{split}/{name}" for name in headline)


def panel_of(name: str) -> str:
    """``"error"`` for a metric with a unit of its own and no upper end (MAE, RMSE ...), ``"quality"`` for others.

    The two cannot share an axis.

    >>> panel_of("val/mae"), panel_of("val/r2")
    ('error', 'quality')
    """
    return "error" if (name.partition("/")[2] or name) in _ERRORS else "quality"


def summarise(values: Mapping[str, float], split: str, headline: Sequence[str]) -> str:
    """Headline metrics in one line; those that were not measured are left out, as is COCO's -1 for "no such objects".

    For detection all COCO metrics follow, since a headline hides which sizes fail.

    >>> summarise({"val/mae": 12.5, "val/r2": -0.25}, "val", ("mae", "r2"))
    'MAE 12.500  R² -0.250'
    """
    more = _DETECTION if "map" in headline and f"{split}/map_50" in values else ()
    names = dict.fromkeys((*headline, *more))
    known = [(name, values[f"{split}/{name}"]) for name in names if f"{split}/{name}" in values]
    shown = [(name, value) for name, value in known if is_measured(name, value)]
    return "  ".join(f"{metric_title(name)} {format_value(value)}" for name, value in shown)


def is_measured(name: str, value: float) -> bool:
    """False for COCO's -1, which stands for "no such objects", and for NaN: R² of one image, AUPRC of one class.

    Args:
        name: with or without its split.
        value: of the metric.

    >>> is_measured("val/map_small", -1.0), is_measured("val/r2", -1.0), is_measured("val/r2", math.nan)
    (False, True, False)
    """
    words = name.split("/")
    return value >= 0 or (not math.isnan(value) and not (words[-1] in _DETECTION or "map_class" in words))


def format_value(value: float) -> str:
    """Three decimals; whole numbers from a thousand on, and three digits of the very large and small.

    >>> [format_value(v) for v in (0.25, 0.0, 1987.3, 0.00012, 2.5e9)]
    ['0.250', '0.000', '1987', '1.20e-04', '2.5e+09']
    """
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"
