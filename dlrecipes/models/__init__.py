"""Networks."""

from dlrecipes.models.detr import DETR

__all__ = ["DETR"]
