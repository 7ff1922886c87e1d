"""DETR: the paper's detector, and the switches that make it learn from little data.

``model`` puts the pieces together, ``criterion`` and ``matcher`` train it, ``postprocess`` reads its output.
"""

from dlrecipes.models.detr.criterion import SetCriterion
from dlrecipes.models.detr.matcher import HungarianMatcher
from dlrecipes.models.detr.model import DETR
from dlrecipes.models.detr.postprocess import postprocess

__all__ = ["DETR", "HungarianMatcher", "SetCriterion", "postprocess"]
