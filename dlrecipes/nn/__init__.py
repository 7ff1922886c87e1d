"""Blocks that networks are made of."""

from dlrecipes.nn.cosine_linear import CosineLinear

__all__ = ["CosineLinear"]
