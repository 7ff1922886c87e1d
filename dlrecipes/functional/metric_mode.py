"""Whether more or less of a metric is better, told from its name."""

from __future__ import annotations

__all__ = ["metric_mode"]

# fmt: off
_LESS = frozenset(
    {
        "loss", "error", "err", "mae", "mse", "rmse", "nll", "ece", "brier", "perplexity", "mape", "logloss",
        "entropy", "fpr", "fnr", "wer", "cer", "distance",
    }
)
_MORE = frozenset(
    {
        "accuracy", "acc", "f1", "fbeta", "map", "mar", "ap", "ar", "auc", "auprc", "auroc", "precision",
        "recall", "r2", "iou", "miou", "dice", "g_mean", "score", "kappa", "mcc", "psnr", "ssim",
        "specificity", "sensitivity",
    }
)
# fmt: on


def metric_mode(name: str) -> str | None:
    """``"min"`` for a loss or an error, ``"max"`` for a score, None for a name that says neither.

    The split before the first ``/`` does not count, nor does a class after the second; of words joined by ``_`` those
    of a loss or an error go first, since ``accuracy_loss`` is a loss.

    Args:
        name: as it is logged.

    Example:
        >>> [metric_mode(name) for name in ("val/loss", "val/balanced_accuracy", "val/map_50", "val/class_ece", "x")]
        ['min', 'max', 'max', 'min', None]
        >>> metric_mode("val/recall_class/error_bars"), metric_mode("top1_acc")
        ('max', 'max')
    """
    parts = name.lower().split("/")
    measure = parts[1] if len(parts) > 1 else parts[0]
    words = {*measure.replace("-", "_").split("_"), measure}
    if words & _LESS:
        return "min"
    return "max" if words & _MORE else None
