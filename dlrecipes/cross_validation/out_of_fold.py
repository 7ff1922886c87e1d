"""Out-of-fold predictions, each by the network that was not trained on the image: collected, joined, measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from dlrecipes.cross_validation.collector import Collector
from dlrecipes.cross_validation.detections import DETECTIONS, DetectionCollector, coco_metrics, join_detections
from dlrecipes.cross_validation.table import ImageCollector, join_tables
from dlrecipes.data import DetectionData
from dlrecipes.errors import UserError
from dlrecipes.runs.metric_names import is_measured

__all__ = ["collect_predictions", "join", "pooled_metrics"]


def collect_predictions(task: Any, data: LightningDataModule) -> Collector:
    """What collects the predictions of a task on these data.

    Args:
        task: a dlrecipes task, with its ``info``.
        data: with the fold held out.

    Raises:
        UserError: boxes from data of one's own kind, or from the embedded scenes.
    """
    if task.info.task != "detection":
        return ImageCollector(task.info)
    if not isinstance(data, DetectionData) or data.audit_report is None:
        raise UserError(
            f"{type(data).__name__} does not tell files and boxes of the held-out images: give images of your own to a "
            "DetectionData, or to a class derived from it"
        )
    return DetectionCollector(task.info, data.records(data.val_split), data.audit_report.source.root)


def join(folds: Sequence[Path], root: Path) -> Path:
    """Write the predictions of all folds as one file, in which each names its fold.

    Args:
        folds: run folders with their predictions.
        root: to write to.

    Returns:
        ``out_of_fold.csv``, or ``out_of_fold.json``, beside which ``out_of_fold_truth.json`` lies.
    """
    return (join_detections if (folds[0] / DETECTIONS).is_file() else join_tables)(folds, root)


def pooled_metrics(joined: Path) -> dict[str, float]:
    """COCO's metrics of all out-of-fold detections in one evaluation; none for other tasks.

    The scores of several networks are ranked in one list, as those of one would be. A class or size that some folds
    have no object of counts in full, where a mean over the folds has to leave it out.

    Args:
        joined: from :func:`join`.

    Returns:
        ``val/map``, ``val/map_50`` ..., ``val/map_class/NAME``; without those that have no object.
    """
    if joined.name != DETECTIONS:
        return {}
    values = {f"val/{name}": value for name, value in coco_metrics(joined).items()}
    return {name: value for name, value in values.items() if is_measured(name, value)}
