"""Data: formats, audit, cache, transforms, datamodules and the embedded data.

Names are imported when they are first used: Lightning, OpenCV and albumentations take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.data.audit_report import AuditReport
    from dlrecipes.data.check import check_data
    from dlrecipes.data.detection import DetectionData
    from dlrecipes.data.discover import read_detection
    from dlrecipes.data.loader import ResumableDataLoader, make_loader
    from dlrecipes.data.predict import find_images, predict_loader
    from dlrecipes.data.records import DetectionRecord, DetectionSource
    from dlrecipes.data.sampler import EpochSampler
    from dlrecipes.data.scenes import DigitScenes
    from dlrecipes.data.scenes_export import export_coco
    from dlrecipes.data.split import split_by_seed
    from dlrecipes.data.transforms import AlbumentationsTransform, DetectionTransform

__all__ = [
    "AlbumentationsTransform",
    "AuditReport",
    "DetectionData",
    "DetectionRecord",
    "DetectionSource",
    "DetectionTransform",
    "DigitScenes",
    "EpochSampler",
    "ResumableDataLoader",
    "check_data",
    "export_coco",
    "find_images",
    "make_loader",
    "predict_loader",
    "read_detection",
    "split_by_seed",
]

_MODULES = {
    "AlbumentationsTransform": "transforms",
    "AuditReport": "audit_report",
    "DetectionData": "detection",
    "DetectionRecord": "records",
    "DetectionSource": "records",
    "DetectionTransform": "transforms",
    "DigitScenes": "scenes",
    "EpochSampler": "sampler",
    "ResumableDataLoader": "loader",
    "check_data": "check",
    "export_coco": "scenes_export",
    "find_images": "predict",
    "make_loader": "loader",
    "predict_loader": "predict",
    "read_detection": "discover",
    "split_by_seed": "split",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
