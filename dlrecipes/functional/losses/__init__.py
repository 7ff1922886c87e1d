"""Loss formulas as pure functions."""

from dlrecipes.functional.losses.binary import (
    asymmetric_loss,
    binary_cross_entropy,
    sigmoid_focal_loss,
    varifocal_loss,
)
from dlrecipes.functional.losses.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from dlrecipes.functional.losses.regression import (
    huber_loss,
    l1_loss,
    l2_loss,
    log_cosh_loss,
    smooth_l1_loss,
    tukey_loss,
)
from dlrecipes.functional.losses.uncertainty import gaussian_nll_loss, laplace_nll_loss, quantile_loss

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "ciou_loss",
    "diou_loss",
    "gaussian_nll_loss",
    "giou_loss",
    "huber_loss",
    "iou_loss",
    "l1_loss",
    "l2_loss",
    "laplace_nll_loss",
    "log_cosh_loss",
    "quantile_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "tukey_loss",
    "varifocal_loss",
]
