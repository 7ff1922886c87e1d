"""Operators with forward and backward written by hand: Triton on CUDA, torch elsewhere, no compiler at install."""

from dlrecipes.ops.add import add
from dlrecipes.ops.focal import fused_sigmoid_focal_loss

__all__ = ["add", "fused_sigmoid_focal_loss"]
