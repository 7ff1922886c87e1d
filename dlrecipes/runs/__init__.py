"""A run's folder, numbers, pictures, tracking and report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.runs.console import EpochLines, make_progress
    from dlrecipes.runs.curves import CurvesPicture, draw_curves
    from dlrecipes.runs.detection_curves import DetectionConfusion, DetectionCurves
    from dlrecipes.runs.detection_pictures import PredictionPictures, TrainBatchPicture
    from dlrecipes.runs.folder import RunFolder
    from dlrecipes.runs.image_curves import ImageCurves
    from dlrecipes.runs.image_pictures import ImageBatchPicture, ImagePredictions
    from dlrecipes.runs.image_results import ImageResults, label_rows
    from dlrecipes.runs.metrics_csv import MetricsCSV, MetricsResume, read_metrics
    from dlrecipes.runs.model_card import write_model_card
    from dlrecipes.runs.pictures import DetectionPicture, class_color, draw_boxes, draw_image_tile, draw_tile, save_grid
    from dlrecipes.runs.report import final_block
    from dlrecipes.runs.tracking import WandbTracker, make_tracker
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
    "CurvesPicture": "curves",
    "DetectionConfusion": "detection_curves",
    "DetectionCurves": "detection_curves",
    "DetectionPicture": "pictures",
    "EpochLines": "console",
    "ImageBatchPicture": "image_pictures",
    "ImageCurves": "image_curves",
    "ImagePredictions": "image_pictures",
    "ImageResults": "image_results",
    "MetricsCSV": "metrics_csv",
    "MetricsResume": "metrics_csv",
    "PredictionPictures": "detection_pictures",
    "RunFolder": "folder",
    "TrainBatchPicture": "detection_pictures",
    "WandbTracker": "tracking",
    "class_color": "pictures",
    "draw_boxes": "pictures",
    "draw_curves": "curves",
    "draw_image_tile": "pictures",
    "draw_tile": "pictures",
    "final_block": "report",
    "gather_verdicts": "verdicts",
    "label_rows": "image_results",
    "make_progress": "console",
    "make_tracker": "tracking",
    "read_metrics": "metrics_csv",
    "save_grid": "pictures",
    "write_model_card": "model_card",
    "write_verdicts": "verdicts",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
