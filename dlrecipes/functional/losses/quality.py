r"""Class losses of detectors whose score learns how well its box fits: the target is the box's quality, its IoU.

All take logits and qualities of one shape, where 0 marks a negative, compute in float32 or wider, let no gradient into
the quality, and return the loss of each element, to be summed and divided by the number of objects. With
:math:`p = \sigma(\text{logit})` and :math:`\text{BCE}(p, q) = -q \log p - (1 - q) \log(1 - p)`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import prepare_pair, safe_pow

__all__ = ["ia_bce_loss", "mal_loss", "varifocal_loss"]


def varifocal_loss(logits: Tensor, quality: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    r"""Varifocal loss: the score learns the quality q (IoU) of its box (Zhang et al., 2021, arXiv:2008.13367, eq. 2).

    .. math:: \text{VFL} = q\, \text{BCE}(p, q) \text{ if } q > 0, \text{ else } \alpha\, p^\gamma\, \text{BCE}(p, 0)

    Args:
        logits: float, any shape; computed in float32 or wider.
        quality: same shape, in 0..1; 0 marks a negative. No gradient flows into it.
        alpha: weight of negatives.
        gamma: how fast easy negatives fade, >= 0.

    Returns:
        The loss of each element, shape of ``logits``; float32 for half precision.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> varifocal_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.1300])
    """
    logits, quality = prepare_pair(logits, quality, ("logits", "quality"))
    weight = torch.where(quality > 0, quality, alpha * logits.sigmoid().pow(gamma))
    return weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def mal_loss(logits: Tensor, quality: Tensor, *, gamma: float = 1.5) -> Tensor:
    r"""Matchability-aware loss: a bad match still counts in full (Huang et al., 2025, arXiv:2412.04234).

    .. math:: \text{MAL} = \text{BCE}(p, q^\gamma) \text{ if } q > 0, \text{ else } p^\gamma\, \text{BCE}(p, 0)

    Varifocal loss weighs a positive by its quality, so that a box that fits badly is hardly told so; here it is. The
    authors' code holds the weight :math:`p^\gamma` of negatives constant to the gradient; this is the formula's own.

    Args:
        logits: float, any shape; computed in float32 or wider.
        quality: same shape, in 0..1; 0 marks a negative, so give a positive whose box misses some small number. No
            gradient flows into it.
        gamma: how far the target is below the quality, and how fast easy negatives fade, >= 0.

    Returns:
        The loss of each element, shape of ``logits``; float32 for half precision.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> mal_loss(torch.tensor([0.0, 2.0, 0.0]), torch.tensor([1.0, 0.25, 0.0]))
        tensor([0.6931, 1.8769, 0.2451])
    """
    logits, quality = prepare_pair(logits, quality, ("logits", "quality"))
    positive = quality > 0
    target = torch.where(positive, quality.pow(gamma), 0.0)  # 0 ** 0 is 1
    weight = torch.where(positive, 1.0, safe_pow(logits.sigmoid(), gamma))
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def ia_bce_loss(logits: Tensor, quality: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    r"""IoU-aware cross entropy: the target lies between score and IoU (Cai et al., 2023, arXiv:2304.07527).

    .. math:: \text{BCE}(p, t),\ t = p^\alpha q^{1 - \alpha} \text{ if } q > 0,
        \text{ else } p^\gamma\, \text{BCE}(p, 0)

    Args:
        logits: float, any shape; computed in float32 or wider.
        quality: same shape, in 0..1; 0 marks a negative, so give a positive whose box misses some small number. No
            gradient flows into it, nor into t.
        alpha: share of the score in a positive's target, in 0..1; 0 is the quality alone.
        gamma: how fast easy negatives fade, >= 0.

    Returns:
        The loss of each element, shape of ``logits``; float32 for half precision.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> ia_bce_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.1733])
    """
    logits, quality = prepare_pair(logits, quality, ("logits", "quality"))
    p = logits.sigmoid()
    positive = quality > 0
    target = torch.where(positive, p.detach().pow(alpha) * quality.pow(1 - alpha), 0.0)
    weight = torch.where(positive, 1.0, safe_pow(p, gamma))
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
