"""Loss formulas as pure functions."""

from dlrecipes.functional.losses.balanced_regression import balanced_mse_loss, gai_loss
from dlrecipes.functional.losses.binary import asymmetric_loss, binary_cross_entropy, sigmoid_focal_loss
from dlrecipes.functional.losses.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from dlrecipes.functional.losses.classification import cross_entropy, focal_loss, poly1_loss
from dlrecipes.functional.losses.contrastive import balanced_contrastive_loss, supervised_contrastive_loss
from dlrecipes.functional.losses.distillation import (
    distillation_loss,
    head_to_tail_distillation_loss,
    teacher_trust,
)
from dlrecipes.functional.losses.label_aware import label_aware_smoothing, label_aware_smoothing_loss
from dlrecipes.functional.losses.longtail import (
    logit_adjusted_cross_entropy,
    post_hoc_logit_adjustment,
    vector_scaling_loss,
)
from dlrecipes.functional.losses.margin import ldam_loss, ldam_margins, seesaw_loss
from dlrecipes.functional.losses.multilabel import distribution_balanced_loss, rebalanced_weights
from dlrecipes.functional.losses.noisy import (
    bi_tempered_loss,
    generalized_cross_entropy,
    symmetric_cross_entropy,
    tempered_log_softmax,
)
from dlrecipes.functional.losses.quality import ia_bce_loss, mal_loss, varifocal_loss
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
    "balanced_contrastive_loss",
    "balanced_mse_loss",
    "bi_tempered_loss",
    "binary_cross_entropy",
    "ciou_loss",
    "cross_entropy",
    "diou_loss",
    "distillation_loss",
    "distribution_balanced_loss",
    "focal_loss",
    "gai_loss",
    "gaussian_nll_loss",
    "generalized_cross_entropy",
    "giou_loss",
    "head_to_tail_distillation_loss",
    "huber_loss",
    "ia_bce_loss",
    "iou_loss",
    "l1_loss",
    "l2_loss",
    "label_aware_smoothing",
    "label_aware_smoothing_loss",
    "laplace_nll_loss",
    "ldam_loss",
    "ldam_margins",
    "log_cosh_loss",
    "logit_adjusted_cross_entropy",
    "mal_loss",
    "poly1_loss",
    "post_hoc_logit_adjustment",
    "quantile_loss",
    "rebalanced_weights",
    "seesaw_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "supervised_contrastive_loss",
    "symmetric_cross_entropy",
    "teacher_trust",
    "tempered_log_softmax",
    "tukey_loss",
    "varifocal_loss",
    "vector_scaling_loss",
]
