"""Loss formulas as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["varifocal_loss"]


def varifocal_loss(logits: Tensor, quality: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    r"""Varifocal loss: the score learns the quality q (IoU) of its box (Zhang et al., 2021, arXiv:2008.13367, eq. 2).

    With :math:`p = \sigma(\text{logit})`:

    .. math:: \text{VFL} = q\, \text{BCE}(p, q) \text{ if } q > 0, \text{ else } \alpha\, p^\gamma\, \text{BCE}(p, 0)

    Args:
        logits: float, any shape; computed in float32 or wider.
        quality: same shape, in 0..1; 0 marks a negative. No gradient flows into it.
        alpha: weight of negatives.
        gamma: how fast easy negatives fade.

    Returns:
        The loss of each element, shape of ``logits``.

    Example:
        >>> varifocal_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor([0.6931, 0.1300])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    quality = quality.detach().to(logits.dtype)
    weight = torch.where(quality > 0, quality, alpha * logits.sigmoid().pow(gamma))
    return weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
