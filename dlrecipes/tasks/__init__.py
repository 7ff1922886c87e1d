"""LightningModules. ``from dlrecipes.tasks import ClassificationTask``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.tasks.base import BaseTask
    from dlrecipes.tasks.classification import ClassificationTask
    from dlrecipes.tasks.detection import DetectionTask
    from dlrecipes.tasks.distillation import DistillationTask
    from dlrecipes.tasks.images import ImageTask
    from dlrecipes.tasks.regression import RegressionTask

__all__ = ["BaseTask", "ClassificationTask", "DetectionTask", "DistillationTask", "ImageTask", "RegressionTask"]

# A task is imported when it is first asked for: Lightning and its metrics take seconds.
_MODULES = {
    "BaseTask": "base",
    "ClassificationTask": "classification",
    "DetectionTask": "detection",
    "DistillationTask": "distillation",
    "ImageTask": "images",
    "RegressionTask": "regression",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
