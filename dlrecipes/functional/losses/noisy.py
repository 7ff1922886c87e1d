"""Losses over exclusive classes that a share of wrong labels harms less than cross entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.classes import as_distribution, class_mass, prepare_classes, reduce_classes
from dlrecipes.functional.losses.reduce import reduce_loss

__all__ = ["bi_tempered_loss", "generalized_cross_entropy", "symmetric_cross_entropy", "tempered_log_softmax"]

# Of Newton's method below: float64's last digits for any number of classes and temperatures in 1..4.
_NEWTON_STEPS = 8


def generalized_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    q: float = 0.7,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Generalised cross entropy, between cross entropy and absolute error (Zhang & Sabuncu, 2018, arXiv:1805.07836).

    With :math:`p = \text{softmax}(\text{logits})` and the target y:

    .. math:: \ell = \sum_c y_c\, \frac{1 - p_c^q}{q}

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        q: in (0, 1]; towards 0 it is cross entropy; 1 is half the absolute error between p and a one-hot target.
        ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> generalized_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), q=0.5)  # 2 - 2 / sqrt 2
        tensor(0.5858)
    """
    logits, targets = prepare_classes(logits, targets)
    return reduce_classes(
        logits,
        targets,
        lambda log_p: -torch.expm1(q * log_p) / q,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )


def symmetric_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Symmetric cross entropy: also the target's under the prediction (Wang et al., 2019, arXiv:1908.06112).

    With :math:`p = \text{softmax}(\text{logits})`, the target y and :math:`\log 0` taken as A:

    .. math:: \ell = -\alpha \sum_c y_c \log p_c - \beta \sum_c p_c \max(\log y_c, A)

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        alpha: weight of cross entropy; more of it where the classes are hard to learn (the paper: 6 for 100 classes).
        beta: weight of the reverse term, which for a label is :math:`-A (1 - p)`.
        log_zero: A, below 0.
        ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> symmetric_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))  # 0.1 log 2 + 4 / 2
        tensor(2.0693)
    """
    logits, targets = prepare_classes(logits, targets)
    target_p = as_distribution(logits, targets, ignore_index=ignore_index)
    log_p = F.log_softmax(logits, dim=1)
    forward = -(target_p * log_p).sum(1)
    reverse = -(log_p.exp() * target_p.log().clamp(min=log_zero)).sum(1)
    return _reduce_samples(
        alpha * forward + beta * reverse,
        class_mass(logits, targets, None, ignore_index),
        sample_weight,
        reduction,
    )


def bi_tempered_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    t1: float = 0.8,
    t2: float = 1.2,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Bi-tempered logistic loss: bounded, and with a heavy-tailed softmax (Amid et al., 2019, arXiv:1906.03361).

    With :math:`\log_t x = (x^{1-t} - 1) / (1 - t)`, :math:`\exp_t` its inverse, the (smoothed) target y, and
    :math:`p_c = \exp_{t_2}(\text{logit}_c - λ)`, where λ makes p sum to 1:

    .. math:: \ell = \sum_c y_c (\log_{t_1} y_c - \log_{t_1} p_c) - \frac{y_c^{2-t_1} - p_c^{2-t_1}}{2 - t_1}

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        t1: in 0..1; below 1 the loss is bounded, so that an outlier cannot dominate.
        t2: in 1..4; above 1 the tails are heavy, so that a wrong label near the boundary pulls less.
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision. ``t1 = t2 = 1`` is cross
        entropy (less the target's own entropy, if it is soft: the loss is 0 where p = y).

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> bi_tempered_loss(torch.tensor([[0.0, 0.0], [-9.0, 0.0]]), torch.tensor([0, 0]), reduction="none")
        tensor([0.5394, 3.2110])
    """
    logits, targets = prepare_classes(logits, targets)
    y = as_distribution(logits, targets, label_smoothing=label_smoothing, ignore_index=ignore_index)
    log_p = tempered_log_softmax(logits, t2)
    if t1 == 1:
        divergence = torch.xlogy(y, y) - y * log_p
    else:
        divergence = (y.pow(2 - t1) - y - y * torch.expm1((1 - t1) * log_p)) / (1 - t1)
    gap = y.pow(2 - t1) - torch.exp((2 - t1) * log_p)
    return _reduce_samples(
        (divergence - gap / (2 - t1)).sum(1),
        class_mass(logits, targets, None, ignore_index),
        sample_weight,
        reduction,
    )


def tempered_log_softmax(logits: Tensor, t: float) -> Tensor:
    r"""Logarithm of the heavy-tailed softmax :math:`\exp_t(\text{logits} - λ)` over axis 1 (arXiv:1906.03361, eq. 4).

    With :math:`k = t - 1` and :math:`u_c = 1 + k (λ - \text{logit}_c)`: :math:`\log p_c = -\log(u_c) / k`. λ has no
    closed form for t > 1. :math:`(\sum_c u_c^{-1/k})^{-k}` is, up to a factor, a power mean of the :math:`u_c`, so it
    rises and is concave in λ, and Newton's method climbs to its value 1 from the largest logit without overshooting;
    its first step is exact where all logits are equal, and in the limit t = 1.

    Args:
        logits: float32 or float64 [B, C, ...].
        t: temperature, >= 1; 1 is the ordinary log-softmax.

    Returns:
        The logits' shape. Differentiable once.

    Example:
        >>> tempered_log_softmax(torch.tensor([[0.0, 0.0, 5.0]]), 1.5).exp()
        tensor([[0.0777, 0.0777, 0.8447]])
    """
    if t == 1:
        return F.log_softmax(logits, dim=1)
    k = t - 1
    logits = logits - logits.detach().amax(1, keepdim=True)
    with torch.no_grad():
        level = torch.zeros_like(logits[:, :1])
        for _ in range(_NEWTON_STEPS):
            log_p = torch.log1p(k * (level - logits)) / -k
            total = log_p.exp().sum(1, keepdim=True)
            step = total * torch.expm1(k * total.log()) / (k * torch.exp(t * log_p).sum(1, keepdim=True))
            level = level + step
    # One more step, in the sum itself: its derivative is λ's, by the theorem of implicit functions.
    log_p = torch.log1p(k * (level - logits)) / -k
    slope = torch.exp(t * log_p.detach()).sum(1, keepdim=True)
    level = level + (log_p.exp().sum(1, keepdim=True) - 1) / slope
    return torch.log1p(k * (level - logits)) / -k


def _reduce_samples(loss: Tensor, mass: Tensor | None, sample_weight: Tensor | None, reduction: str) -> Tensor:
    """Reduce the losses [B, ...] of whole elements; those with mass 0 are ignored."""
    return reduce_loss(loss if mass is None else loss * mass, reduction, sample_weight, mass=mass)
