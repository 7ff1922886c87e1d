"""Label smoothing that depends on how often a class occurs."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.classes import along_classes, as_distribution, class_mass, per_class, prepare_classes
from dlrecipes.functional.losses.reduce import reduce_loss

__all__ = ["SmoothingShape", "label_aware_smoothing", "label_aware_smoothing_loss"]

SmoothingShape = Literal["concave", "linear", "convex"]


def label_aware_smoothing(
    counts: Tensor, *, head: float = 0.3, tail: float = 0.0, shape: SmoothingShape = "concave"
) -> Tensor:
    r"""ε of each class: ``head`` for the most frequent, ``tail`` for the rarest (Zhong et al., 2021, arXiv:2104.00466),
    since networks are overconfident about frequent classes.

    With :math:`f = (n - \min n) / (\max n - \min n)`, and 0 where all classes are as frequent:

    .. math:: ε = \text{tail} + (\text{head} - \text{tail})\, g(f) \qquad
        g = \sin(\tfrac{π}{2} f),\; f,\; 1 - \cos(\tfrac{π}{2} f)

    Args:
        counts: float or int [C].
        head, tail: in 0..1.
        shape: g: ``"concave"``, ``"linear"`` or ``"convex"``.

    Returns:
        float [C], of ``counts``'s dtype if it is a floating one, otherwise float32.

    Raises:
        ValueError: an unknown shape.

    Example:
        >>> label_aware_smoothing(torch.tensor([101, 51, 1]), head=0.4, tail=0.1, shape="linear")
        tensor([0.4000, 0.2500, 0.1000])
    """
    if shape not in get_args(SmoothingShape):
        raise ValueError(f"shape is {shape!r}: use {', '.join(map(repr, get_args(SmoothingShape)))}")
    counts = counts if counts.is_floating_point() else counts.float()
    spread = counts.max() - counts.min()
    part = (counts - counts.min()) / torch.where(spread > 0, spread, 1)
    if shape == "concave":
        part = torch.sin(math.pi / 2 * part)
    elif shape == "convex":
        part = 1 - torch.cos(math.pi / 2 * part)
    return tail + (head - tail) * part


def label_aware_smoothing_loss(
    logits: Tensor,
    targets: Tensor,
    smoothing: Tensor,
    *,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy with a label smoothing of each class's own (Zhong et al., 2021, arXiv:2104.00466).

    .. math:: \ell = -\sum_c y_c \Big( (1 - ε_c) \log p_c + \frac{ε_c}{C} \sum_j \log p_j \Big)

    As in the authors' code and in torch's ``label_smoothing``, ε is shared out over all classes; the paper's formula
    shares it out over the others, which is the same for an ε larger by C / (C - 1).

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities y. No gradient flows into them.
        smoothing: float [C], ε of each class in 0..1, as ``label_aware_smoothing`` gives them.
        ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits, smoothing = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0.4, 0.0])
        >>> label_aware_smoothing_loss(logits, torch.tensor([0, 1]), smoothing, reduction="none")
        tensor([0.5269, 0.1269])
    """
    logits, targets = prepare_classes(logits, targets)
    epsilon = along_classes(per_class("smoothing", smoothing, logits), logits)
    y = as_distribution(logits, targets, ignore_index=ignore_index)
    y = y * (1 - epsilon) + (y * epsilon).sum(1, keepdim=True) / max(logits.shape[1], 1)
    loss = -(y * F.log_softmax(logits, dim=1)).sum(1)
    return reduce_loss(loss, reduction, sample_weight, mass=class_mass(logits, targets, None, ignore_index))
