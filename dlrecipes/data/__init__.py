"""Data: formats, audit, cache, transforms, datamodules and the embedded data.

Names are imported when they are first used: Lightning, OpenCV and albumentations take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlrecipes.data.audit.audit_report import AuditReport
    from dlrecipes.data.audit.check import check_data
    from dlrecipes.data.audit.image_report import ImageAuditReport
    from dlrecipes.data.audit.pixel_check import PixelCheck, check_pixels
    from dlrecipes.data.augment.device_augment import DeviceAugment
    from dlrecipes.data.augment.image_transforms import AlbumentationsImages, ImageTransform
    from dlrecipes.data.augment.mixing import MixSamples
    from dlrecipes.data.augment.strong import StrongAugment
    from dlrecipes.data.augment.transforms import AlbumentationsTransform, DetectionTransform
    from dlrecipes.data.classification import ClassificationData
    from dlrecipes.data.detection import DetectionData
    from dlrecipes.data.embedded.digits import embedded_digits
    from dlrecipes.data.embedded.scenes import DigitScenes
    from dlrecipes.data.embedded.scenes_export import export_coco
    from dlrecipes.data.formats.arrays import array_source
    from dlrecipes.data.formats.discover import read_detection
    from dlrecipes.data.formats.discover_images import read_images
    from dlrecipes.data.formats.image_files import ArrayImages, PathImages, TorchvisionImages
    from dlrecipes.data.formats.image_source import ImageFiles, ImageSource, ImageTable
    from dlrecipes.data.formats.parquet_images import ParquetImages
    from dlrecipes.data.formats.records import DetectionRecord, DetectionSource
    from dlrecipes.data.loading.image_predict import image_predict_loader
    from dlrecipes.data.loading.loader import ResumableDataLoader, make_loader
    from dlrecipes.data.loading.predict import find_images, predict_loader
    from dlrecipes.data.loading.resample import ResampledEpochSampler
    from dlrecipes.data.loading.sampler import EpochSampler
    from dlrecipes.data.splits.split_records import split_by_seed

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
    "AlbumentationsImages": "augment.image_transforms",
    "AlbumentationsTransform": "augment.transforms",
    "ArrayImages": "formats.image_files",
    "AuditReport": "audit.audit_report",
    "ClassificationData": "classification",
    "DetectionData": "detection",
    "DetectionRecord": "formats.records",
    "DetectionSource": "formats.records",
    "DetectionTransform": "augment.transforms",
    "DeviceAugment": "augment.device_augment",
    "DigitScenes": "embedded.scenes",
    "EpochSampler": "loading.sampler",
    "ImageAuditReport": "audit.image_report",
    "ImageFiles": "formats.image_source",
    "ImageSource": "formats.image_source",
    "ImageTable": "formats.image_source",
    "ImageTransform": "augment.image_transforms",
    "MixSamples": "augment.mixing",
    "ParquetImages": "formats.parquet_images",
    "PathImages": "formats.image_files",
    "PixelCheck": "audit.pixel_check",
    "ResampledEpochSampler": "loading.resample",
    "ResumableDataLoader": "loading.loader",
    "StrongAugment": "augment.strong",
    "TorchvisionImages": "formats.image_files",
    "array_source": "formats.arrays",
    "check_data": "audit.check",
    "check_pixels": "audit.pixel_check",
    "embedded_digits": "embedded.digits",
    "export_coco": "embedded.scenes_export",
    "find_images": "loading.predict",
    "image_predict_loader": "loading.image_predict",
    "make_loader": "loading.loader",
    "predict_loader": "loading.predict",
    "read_detection": "formats.discover",
    "read_images": "formats.discover_images",
    "split_by_seed": "splits.split_records",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
