"""Imbalanced labels: what is known about the classes, and how rare ones are seen more often."""

from dlrecipes.imbalance.repeat_factor import repeat_factors

__all__ = ["repeat_factors"]
