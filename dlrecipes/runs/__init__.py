"""A run's folder, numbers, pictures, tracking and report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.runs.console import EpochLines, make_progress
    from dlrecipes.runs.folder import RunFolder
    from dlrecipes.runs.image_results import ImageResults, label_rows
    from dlrecipes.runs.metrics_csv import MetricsCSV, MetricsResume, read_metrics
    from dlrecipes.runs.model_card import write_model_card
    from dlrecipes.runs.pictures.curves import CurvesPicture, draw_curves
    from dlrecipes.runs.pictures.detection_curves import DetectionConfusion, DetectionCurves
    from dlrecipes.runs.pictures.detection_pictures import PredictionPictures, TrainBatchPicture
    from dlrecipes.runs.pictures.image_curves import ImageCurves
    from dlrecipes.runs.pictures.image_pictures import ImageBatchPicture, ImagePredictions
    from dlrecipes.runs.pictures.tiles import (
        DetectionPicture,
        class_color,
        draw_boxes,
        draw_image_tile,
        draw_tile,
        save_grid,
    )
    from dlrecipes.runs.report import final_block
    from dlrecipes.runs.tracking.wandb_tracker import WandbTracker, make_tracker
    from dlrecipes.runs.verdicts import gather_verdicts, write_verdicts

__all__ = [
    "CurvesPicture",
    "DetectionConfusion",
    "DetectionCurves",
    "DetectionPicture",
    "EpochLines",
    "ImageBatchPicture",
    "ImageCurves",
    "ImagePredictions",
    "ImageResults",
    "MetricsCSV",
    "MetricsResume",
    "PredictionPictures",
    "RunFolder",
    "TrainBatchPicture",
    "WandbTracker",
    "class_color",
    "draw_boxes",
    "draw_curves",
    "draw_image_tile",
    "draw_tile",
    "final_block",
    "gather_verdicts",
    "label_rows",
    "make_progress",
    "make_tracker",
    "read_metrics",
    "save_grid",
    "write_model_card",
    "write_verdicts",
]

# Lightning, matplotlib and W&B take seconds to import, so a name is imported when it is first asked for.
_MODULES = {
    "CurvesPicture": "pictures.curves",
    "DetectionConfusion": "pictures.detection_curves",
    "DetectionCurves": "pictures.detection_curves",
    "DetectionPicture": "pictures.tiles",
    "EpochLines": "console",
    "ImageBatchPicture": "pictures.image_pictures",
    "ImageCurves": "pictures.image_curves",
    "ImagePredictions": "pictures.image_pictures",
    "ImageResults": "image_results",
    "MetricsCSV": "metrics_csv",
    "MetricsResume": "metrics_csv",
    "PredictionPictures": "pictures.detection_pictures",
    "RunFolder": "folder",
    "TrainBatchPicture": "pictures.detection_pictures",
    "WandbTracker": "tracking.wandb_tracker",
    "class_color": "pictures.tiles",
    "draw_boxes": "pictures.tiles",
    "draw_curves": "pictures.curves",
    "draw_image_tile": "pictures.tiles",
    "draw_tile": "pictures.tiles",
    "final_block": "report",
    "gather_verdicts": "verdicts",
    "label_rows": "image_results",
    "make_progress": "console",
    "make_tracker": "tracking.wandb_tracker",
    "read_metrics": "metrics_csv",
    "save_grid": "pictures.tiles",
    "write_model_card": "model_card",
    "write_verdicts": "verdicts",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
