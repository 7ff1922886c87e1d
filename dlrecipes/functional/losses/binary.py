"""Losses on sigmoids: each output is a yes-or-no question of its own (multi-label)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.classes import as_distribution
from dlrecipes.functional.losses.reduce import check_same_shape, reduce_loss, safe_pow, upcast

__all__ = ["asymmetric_loss", "binary_cross_entropy", "sigmoid_focal_loss"]


def _prepare(
    logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both in the dtype to compute in, labels as one yes among no's, smoothed; what each element of labels counts."""
    logits, targets = upcast(logits), targets.detach()
    mass: Tensor | None = None
    if not targets.is_floating_point() and logits.dim() == 2 and targets.shape == logits.shape[:1]:
        targets = targets.long()  # int32 and uint8 are labels, too, as for the losses over exclusive classes
        mass = (targets != ignore_index).to(logits.dtype).unsqueeze(1).expand_as(logits)
        targets = as_distribution(logits, targets, ignore_index=ignore_index)
    check_same_shape(logits, targets, ("logits", "targets"))
    targets = targets.to(logits.dtype)
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    return logits, targets, mass


def _weight_for(logits: Tensor, pos_weight: Tensor | None) -> Tensor | None:
    """The weight of positives in the dtype and on the device of the logits.

    Raises:
        ValueError: not one a class.
    """
    if pos_weight is None:
        return None
    if pos_weight.shape != logits.shape[-1:]:
        raise ValueError(
            f"pos_weight has shape {list(pos_weight.shape)}: give one weight a class, {list(logits.shape[-1:])}"
        )
    return pos_weight.to(logits)


def _reduce(loss: Tensor, mass: Tensor | None, reduction: str, sample_weight: Tensor | None) -> Tensor:
    return reduce_loss(loss if mass is None else loss * mass, reduction, sample_weight, mass=mass)


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross entropy of logits; with several columns, of several labels.

    With :math:`p = \sigma(\text{logit})`, and :math:`w` the class's weight of positives:

    .. math:: \ell = -w\, y \log p - (1 - y) \log(1 - p)

    Args:
        logits: float, any shape [B, ...]; computed in float32 or wider.
        targets: same shape, in 0..1 (or bool), or int64 labels [B] of logits [B, C]: yes to one class, no to the others
            (Wightman et al., 2021, arXiv:2110.00476, train ImageNet so). No gradient flows into it.
        pos_weight: float [C], C = the last axis of ``logits``: what a positive of each class weighs against a negative.
        label_smoothing: ε in 0..1; targets become :math:`y (1 - ε) + ε / 2`.
        ignore_index: label of samples that count nowhere, also not in the mean's divisor.
        sample_weight: float [B] or ``logits``'s shape.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the number of elements, whatever
            ``pos_weight`` says (torch's convention), or with sample weights by the sum of the elements' weights.

    Returns:
        A scalar, or with ``"none"`` ``logits``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> binary_cross_entropy(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), reduction="none")
        tensor([[0.6931, 2.1269]])
    """
    logits, targets, mass = _prepare(logits, targets, ignore_index, label_smoothing)
    pos_weight = _weight_for(logits, pos_weight)
    loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")
    return _reduce(loss, mass, reduction, sample_weight)


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    pos_weight: Tensor | None = None,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Focal loss on sigmoids: easy elements fade (Lin et al., 2017, arXiv:1708.02002, eq. 5).

    With :math:`p = \sigma(\text{logit})`, and :math:`w` the class's weight of positives, 1 where none is given:

    .. math:: \ell = -\alpha\, w\, y\, (1 - p)^\gamma \log p - (1 - \alpha)(1 - y)\, p^\gamma \log(1 - p)

    Args:
        logits: float, any shape [B, ...]; computed in float32 or wider.
        targets: same shape, in 0..1, the two terms mixed in between, or int64 labels [B] of logits [B, C]. No gradient
            flows into it.
        alpha: weight of positives, 1 - alpha that of negatives; None: both weigh 1.
        gamma: how fast easy elements fade, >= 0; 0 is binary cross entropy.
        pos_weight: as in ``binary_cross_entropy``.
        ignore_index: label of samples that count nowhere, also not in the mean's divisor.
        sample_weight: float [B] or ``logits``'s shape.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the number of elements (detectors divide
            the sum by the number of objects instead), or with sample weights by the sum of the elements' weights.

    Returns:
        A scalar, or with ``"none"`` ``logits``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> sigmoid_focal_loss(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0]), reduction="none")
        tensor([4.3322e-02, 1.4679e-06])
    """
    logits, targets, mass = _prepare(logits, targets, ignore_index)
    positive, negative = _focal_terms(logits, gamma, gamma, 0.0)
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return _reduce(_mixed(logits, targets, positive, negative, pos_weight), mass, reduction, sample_weight)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    pos_weight: Tensor | None = None,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Asymmetric loss for many labels, most of them absent (Ridnik et al., 2021, arXiv:2009.14119, eq. 7).

    With :math:`p = \sigma(\text{logit})`, :math:`p_m = \max(p - m, 0)`, m the clip, and :math:`w` the class's weight of
    positives, 1 where none is given:

    .. math:: \ell = -w\, y\, (1 - p)^{\gamma_+} \log p - (1 - y)\, p_m^{\gamma_-} \log(1 - p_m)

    Args:
        logits: float, any shape [B, ...]; computed in float32 or wider.
        targets: same shape, in 0..1, the two terms mixed in between, or int64 labels [B] of logits [B, C]. No gradient
            flows into it.
        gamma_pos: how fast easy positives fade, >= 0.
        gamma_neg: how fast easy negatives fade, >= 0.
        clip: m, in 0..1: a negative with p below it costs nothing. All three 0: binary cross entropy.
        pos_weight: as in ``binary_cross_entropy``.
        ignore_index: label of samples that count nowhere, also not in the mean's divisor.
        sample_weight: float [B] or ``logits``'s shape.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the number of elements (the authors train
            with the sum), or with sample weights by the sum of the elements' weights.

    Returns:
        A scalar, or with ``"none"`` ``logits``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> asymmetric_loss(torch.tensor([0.0, 0.0, -4.0]), torch.tensor([1.0, 0.0, 0.0]), reduction="none")
        tensor([0.6931, 0.0245, 0.0000])
    """
    logits, targets, mass = _prepare(logits, targets, ignore_index)
    positive, negative = _focal_terms(logits, gamma_pos, gamma_neg, clip)
    return _reduce(_mixed(logits, targets, positive, negative, pos_weight), mass, reduction, sample_weight)


def _mixed(logits: Tensor, targets: Tensor, positive: Tensor, negative: Tensor, pos_weight: Tensor | None) -> Tensor:
    """What each element costs, by how much of a positive it is."""
    weight = _weight_for(logits, pos_weight)
    return targets * (positive if weight is None else weight * positive) + (1 - targets) * negative


def _focal_terms(logits: Tensor, gamma_pos: float, gamma_neg: float, clip: float) -> tuple[Tensor, Tensor]:
    """What each element costs as a positive and as a negative."""
    positive, negative = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    chance = logits.sigmoid()
    if clip:
        chance = (chance - clip).clamp(min=0)
        negative = -torch.log1p(-chance)  # at most -log(clip), so finite
    if gamma_pos:
        positive = safe_pow((-logits).sigmoid(), gamma_pos) * positive
    if gamma_neg:
        negative = safe_pow(chance, gamma_neg) * negative
    return positive, negative
