"""Data: formats, audit, cache, transforms, datamodules and the embedded data.

Names are imported when they are first used: Lightning, OpenCV and albumentations take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.data.arrays import array_source
    from dlrecipes.data.audit_report import AuditReport
    from dlrecipes.data.check import check_data
    from dlrecipes.data.classification import ClassificationData
    from dlrecipes.data.detection import DetectionData
    from dlrecipes.data.device_augment import DeviceAugment
    from dlrecipes.data.digits import embedded_digits
    from dlrecipes.data.discover import read_detection
    from dlrecipes.data.discover_images import read_images
    from dlrecipes.data.image_files import ArrayImages, PathImages, TorchvisionImages
    from dlrecipes.data.image_predict import image_predict_loader
    from dlrecipes.data.image_report import ImageAuditReport
    from dlrecipes.data.image_source import ImageFiles, ImageSource, ImageTable
    from dlrecipes.data.image_transforms import AlbumentationsImages, ImageTransform
    from dlrecipes.data.loader import ResumableDataLoader, make_loader
    from dlrecipes.data.mixing import MixSamples
    from dlrecipes.data.parquet_images import ParquetImages
    from dlrecipes.data.pixel_check import PixelCheck, check_pixels
    from dlrecipes.data.predict import find_images, predict_loader
    from dlrecipes.data.records import DetectionRecord, DetectionSource
    from dlrecipes.data.resample import ResampledEpochSampler
    from dlrecipes.data.sampler import EpochSampler
    from dlrecipes.data.scenes import DigitScenes
    from dlrecipes.data.scenes_export import export_coco
    from dlrecipes.data.split import split_by_seed
    from dlrecipes.data.strong import StrongAugment
    from dlrecipes.data.transforms import AlbumentationsTransform, DetectionTransform

__all__ = [
    "AlbumentationsImages",
    "AlbumentationsTransform",
    "ArrayImages",
    "AuditReport",
    "ClassificationData",
    "DetectionData",
    "DetectionRecord",
    "DetectionSource",
    "DetectionTransform",
    "DeviceAugment",
    "DigitScenes",
    "EpochSampler",
    "ImageAuditReport",
    "ImageFiles",
    "ImageSource",
    "ImageTable",
    "ImageTransform",
    "MixSamples",
    "ParquetImages",
    "PathImages",
    "PixelCheck",
    "ResampledEpochSampler",
    "ResumableDataLoader",
    "StrongAugment",
    "TorchvisionImages",
    "array_source",
    "check_data",
    "check_pixels",
    "embedded_digits",
    "export_coco",
    "find_images",
    "image_predict_loader",
    "make_loader",
    "predict_loader",
    "read_detection",
    "read_images",
    "split_by_seed",
]

_MODULES = {
    "AlbumentationsImages": "image_transforms",
    "AlbumentationsTransform": "transforms",
    "ArrayImages": "image_files",
    "AuditReport": "audit_report",
    "ClassificationData": "classification",
    "DetectionData": "detection",
    "DetectionRecord": "records",
    "DetectionSource": "records",
    "DetectionTransform": "transforms",
    "DeviceAugment": "device_augment",
    "DigitScenes": "scenes",
    "EpochSampler": "sampler",
    "ImageAuditReport": "image_report",
    "ImageFiles": "image_source",
    "ImageSource": "image_source",
    "ImageTable": "image_source",
    "ImageTransform": "image_transforms",
    "MixSamples": "mixing",
    "ParquetImages": "parquet_images",
    "PathImages": "image_files",
    "PixelCheck": "pixel_check",
    "ResampledEpochSampler": "resample",
    "ResumableDataLoader": "loader",
    "StrongAugment": "strong",
    "TorchvisionImages": "image_files",
    "array_source": "arrays",
    "check_data": "check",
    "check_pixels": "pixel_check",
    "embedded_digits": "digits",
    "export_coco": "scenes_export",
    "find_images": "predict",
    "image_predict_loader": "image_predict",
    "make_loader": "loader",
    "predict_loader": "predict",
    "read_detection": "discover",
    "read_images": "discover_images",
    "split_by_seed": "split",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
