"""Loss formulas as pure functions."""

from dlrecipes.functional.losses.binary import (
    asymmetric_loss,
    binary_cross_entropy,
    sigmoid_focal_loss,
    varifocal_loss,
)

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "sigmoid_focal_loss",
    "varifocal_loss",
]
