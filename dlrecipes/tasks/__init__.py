"""LightningModules. ``from dlrecipes.tasks import DetectionTask``."""

from dlrecipes.tasks.detection import DetectionTask

__all__ = ["DetectionTask"]
