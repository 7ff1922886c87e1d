"""Losses over exclusive classes of which some are rare."""

from __future__ import annotations

import torch
from torch import Tensor

from dlrecipes.functional.losses.classes import prepare_classes
from dlrecipes.functional.losses.classification import cross_entropy

__all__ = ["logit_adjusted_cross_entropy"]


def logit_adjusted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    prior: Tensor,
    *,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy of logits plus the classes' log frequencies π (Menon et al., 2021, arXiv:2007.07314, eq. 10).

    .. math:: \ell = \text{CE}(\text{logits} + τ \log π, \text{target})

    Training learns what the frequencies do not explain, so the bare logits are a classifier for balanced classes:
    predict from them, without the adjustment.

    Args:
        logits: float [B, C, ...]; computed in float32 or wider.
        targets: int64 [B, ...] labels, or float [B, C, ...] probabilities. No gradient flows into them.
        prior: float or int [C], frequency of each class in the training data, above 0; counts do, only ratios matter.
        tau: strength, >= 0; 0 is cross entropy, 1 is consistent for the balanced error.
        label_smoothing, ignore_index, sample_weight: as in ``cross_entropy``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; the mean divides as in ``cross_entropy``.

    Returns:
        A scalar, or with ``"none"`` the labels' shape [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits, prior = torch.tensor([[0.0, 0.0]]), torch.tensor([90, 10])
        >>> logit_adjusted_cross_entropy(logits, torch.tensor([1]), prior)  # -log 0.1
        tensor(2.3026)
    """
    logits, targets = prepare_classes(logits, targets)
    if prior.shape != logits.shape[1:2]:
        raise ValueError(f"prior has shape {list(prior.shape)}: give one number a class, {list(logits.shape[1:2])}")
    log_prior = prior.to(logits).clamp(min=torch.finfo(logits.dtype).tiny).log()
    return cross_entropy(
        logits + tau * log_prior.reshape(-1, *[1] * (logits.dim() - 2)),
        targets,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )
