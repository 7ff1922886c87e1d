"""Losses over exclusive classes: cross entropy, focal, poly-1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.classes import class_mass, prepare_class_weight, prepare_classes, reduce_classes
from dlrecipes.functional.losses.reduce import reduce_loss, safe_pow

__all__ = ["cross_entropy", "focal_loss", "poly1_loss"]


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy of labels or of soft targets, as mixup makes them.

    With :math:`p = \text{softmax}(\text{logits})`, class weights w and C classes:

    .. math:: \ell = -\sum_c w_c\, y_c \log p_c \qquad y = (1 - ε)\, \text{target} + ε / C

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        weight: float [C], what each class counts.
        label_smoothing: ε in 0..1 (Szegedy et al., 2016, arXiv:1512.00567).
        ignore_index: label of elements that are left out.
        sample_weight: float [B] or [B, ...].
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the sum of sample weight × class weight of
            the target over the elements that are not ignored; without weights that is their number. A soft target
            has the average of the class weights under it. (torch divides soft targets by their number even with class
            weights; here one-hot targets give what their labels give.) Nothing to divide by: 0, see ``reduce_loss``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> cross_entropy(logits, torch.tensor([0, 1]))
        tensor(0.4100)
        >>> cross_entropy(logits, torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        tensor(0.5100)
    """
    logits, targets = prepare_classes(logits, targets)
    weight = prepare_class_weight(weight, logits)
    loss = F.cross_entropy(
        logits,
        targets,
        weight=weight,
        ignore_index=-100 if targets.is_floating_point() else ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return reduce_loss(loss, reduction, sample_weight, mass=class_mass(logits, targets, weight, ignore_index))


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Focal loss over exclusive classes: easy samples fade (Lin et al., 2017, arXiv:1708.02002, eq. 4 with a softmax).

    With :math:`p = \text{softmax}(\text{logits})`, class weights w and the (smoothed) target y:

    .. math:: \ell = -\sum_c w_c\, y_c\, (1 - p_c)^\gamma \log p_c

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        gamma: how fast easy samples fade, >= 0; 0 is cross entropy.
        weight: float [C], what each class counts (the paper's alpha).
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> focal_loss(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 0]), reduction="none")
        tensor([1.7329e-01, 5.8716e-06])
    """
    logits, targets = prepare_classes(logits, targets)

    def cost(log_p: Tensor) -> Tensor:
        return safe_pow(-torch.expm1(log_p), gamma) * -log_p if gamma else -log_p

    return reduce_classes(
        logits,
        targets,
        cost,
        weight=prepare_class_weight(weight, logits),
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )


def poly1_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Poly-1: cross entropy with the first term of its series in 1 - p changed (Leng et al., 2022, arXiv:2204.12511).

    With :math:`p = \text{softmax}(\text{logits})` and the (smoothed) target y:

    .. math:: \ell = -\sum_c y_c \log p_c + ε_1 \Big(1 - \sum_c y_c\, p_c\Big)

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities that sum to 1. No gradient flows into them.
        epsilon: ε₁, at least -1; 0 is cross entropy.
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> poly1_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))  # log 2 + 1/2
        tensor(1.1931)
    """
    logits, targets = prepare_classes(logits, targets)
    return reduce_classes(
        logits,
        targets,
        lambda log_p: -log_p - epsilon * torch.expm1(log_p),
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )
