"""Losses that ask more of rare classes than of frequent ones: LDAM's margins, seesaw's reweighted negatives."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.classes import (
    along_classes,
    per_class,
    prepare_class_weight,
    prepare_classes,
    reduce_costs,
)
from dlrecipes.functional.losses.classification import cross_entropy

__all__ = ["ldam_loss", "ldam_margins", "seesaw_loss"]


def ldam_margins(counts: Tensor, max_margin: float = 0.5) -> Tensor:
    r"""Margins that fall with the fourth root of a class's samples n; the rarest class's is ``max_margin``.

    .. math:: Δ_c = C\, n_c^{-1/4}

    Args:
        counts: float or int [C], above 0.
        max_margin: > 0.

    Returns:
        float [C], of ``counts``'s dtype if it is a floating one, otherwise float32.

    Example:
        >>> ldam_margins(torch.tensor([10000, 16]), max_margin=0.5)
        tensor([0.1000, 0.5000])
    """
    counts = counts if counts.is_floating_point() else counts.float()
    roots = counts.pow(-0.25)
    return max_margin * roots / roots.max()


def ldam_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""LDAM: the label's logit must win by a margin, the larger the rarer its class (Cao et al., 2019,
    arXiv:1906.07413).

    With Δ of ``ldam_margins``, scale s, class weights w, and the loss of label c weighted by the (smoothed) target y:

    .. math:: \ell = -\sum_c w_c\, y_c \log
        \frac{e^{s (z_c - Δ_c)}}{e^{s (z_c - Δ_c)} + \sum_{j \ne c} e^{s z_j}}

    The logits must be cosines, in -1..1, as a normalised last layer gives them: against unbounded logits a margin of
    one half means nothing, and s makes the loss too steep.

    Args:
        logits: float [B, C, ...], cosines; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        counts: float or int [C], samples of each class, above 0.
        max_margin: margin of the rarest class, >= 0; 0 with ``scale`` 1 is cross entropy.
        scale: s > 0.
        weight: float [C], what each class counts (the authors bring it in late in training: DRW).
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> cosines, counts = torch.tensor([[0.6, 0.5]]), torch.tensor([10000, 16])
        >>> ldam_loss(cosines, torch.tensor([0]), counts, scale=10.0)  # a lead of 0.1, as much as asked: log 2
        tensor(0.6931)
    """
    logits, targets = prepare_classes(logits, targets)
    margins = along_classes(ldam_margins(per_class("counts", counts, logits), max_margin), logits)
    costs = F.softplus(_log_sum_of_others(scale * logits) - scale * (logits - margins))
    return reduce_costs(
        costs,
        targets,
        weight=prepare_class_weight(weight, logits),
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )


def _log_sum_of_others(logits: Tensor) -> Tensor:
    """For each class, log Σ exp over the other classes (axis 1), without the cancellation that subtraction has."""
    if logits.numel() == 0:
        return logits
    largest = logits.argmax(1, keepdim=True)
    is_largest = torch.zeros_like(logits, dtype=torch.bool).scatter(1, largest, True)
    p = logits.softmax(1).masked_fill(is_largest, 0)  # at most 1/2 for all but the largest, so log1p is safe
    others = torch.logsumexp(logits, 1, keepdim=True) + torch.log1p(-p)
    without = logits.masked_fill(is_largest, torch.finfo(logits.dtype).min)
    return torch.where(is_largest, torch.logsumexp(without, 1, keepdim=True), others)


def seesaw_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    *,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 0.01,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Seesaw: samples of frequent classes push rare ones less, wrong predictions push more (Wang et al., 2021,
    arXiv:2008.10032).

    With counts N, :math:`σ = \text{softmax}(z)` without gradient, and the loss of label i weighted by the target y:

    .. math:: \ell = -\sum_i y_i \log \frac{e^{z_i}}{\sum_j S_{ij} e^{z_j}} \qquad
        S_{ij} = \min\Big(1, \frac{N_j}{N_i}\Big)^p \max\Big(1, \frac{σ_j}{\max(σ_i, \text{eps})}\Big)^q

    Args:
        logits: float [B, C, ...]; computed in float32 or wider. The authors feed scaled cosines.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        counts: float or int [C], samples of each class; below 1 counts as 1.
        p: mitigation, >= 0: how much rare classes are spared.
        q: compensation, >= 0: how much a class that was predicted wrongly is pushed. p = q = 0 is cross entropy.
        eps: > 0, smallest σ_i in the compensation (the authors' code).
        label_smoothing: in 0..1. It and soft targets take memory for B × C × C numbers; labels take B × C.
        ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits, counts = torch.zeros(1, 2), torch.tensor([100, 1])
        >>> seesaw_loss(logits, torch.tensor([0]), counts, p=1.0)  # log(1 + 1 / 100)
        tensor(0.0100)
        >>> seesaw_loss(logits, torch.tensor([1]), counts, p=1.0)  # log 2
        tensor(0.6931)
    """
    logits, targets = prepare_classes(logits, targets)
    log_n = per_class("counts", counts, logits).clamp(min=1).log()
    z = logits.movedim(1, -1)
    log_p = F.log_softmax(z.detach(), dim=-1)
    floor = log_p.clamp(min=math.log(eps))
    if targets.is_floating_point() or label_smoothing:
        log_s = q * (log_p.unsqueeze(-2) - floor.unsqueeze(-1)).relu() - p * (log_n[:, None] - log_n).relu()
        costs = torch.logsumexp(z.unsqueeze(-2) + log_s, -1) - z
        return reduce_costs(
            costs.movedim(-1, 1),
            targets,
            weight=None,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            sample_weight=sample_weight,
            reduction=reduction,
        )
    label = torch.where(targets != ignore_index, targets, 0).unsqueeze(-1)
    # both terms are 0 at the label itself: its own logit stays
    log_s = q * (log_p - floor.gather(-1, label)).relu() - p * (log_n[label] - log_n).relu()
    return cross_entropy(
        (z + log_s).movedim(-1, 1),
        targets,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )
