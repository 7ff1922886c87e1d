"""Losses of several labels of which some are rare."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import prepare_pair, reduce_loss, safe_pow

__all__ = ["distribution_balanced_loss", "rebalanced_weights"]


def rebalanced_weights(
    targets: Tensor, counts: Tensor, *, alpha: float = 0.1, beta: float = 10.0, mu: float = 0.2
) -> Tensor:
    r"""What each label of each sample counts, given that labels come together (Wu et al., 2020,
    arXiv:2007.09654).

    Class-balanced sampling would show a sample once for each of its labels. The weight undoes that: with counts n, the
    share of class i in how often the sample would be drawn is r, made smooth by a sigmoid σ:

    .. math:: r_i = \frac{1 / n_i}{\sum_j y_j / n_j} \qquad w_i = α + σ\big(β (r_i - μ)\big)

    A sample without any label has :math:`w = α + 1` throughout, the limit of the formula.

    Args:
        targets: float [B, C], y in 0..1.
        counts: float or int [C], samples with each label, above 0.
        alpha, beta, mu: α >= 0, β > 0, μ. The authors: μ = 0.2 on COCO-MLT, 0.3 on VOC-MLT.

    Returns:
        [B, C], of the targets' dtype.

    Example:
        >>> rebalanced_weights(torch.tensor([[1.0, 1.0]]), torch.tensor([90, 10]))
        tensor([[0.3689, 1.0991]])
    """
    inverse = 1 / counts.to(targets)
    drawn = (targets * inverse).sum(1, keepdim=True)
    share = inverse / torch.where(drawn > 0, drawn, 1)
    return alpha + torch.where(drawn > 0, torch.sigmoid(beta * (share - mu)), 1)


def distribution_balanced_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    total: int,
    *,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    kappa: float = 0.05,
    negative_scale: float = 2.0,
    gamma: float = 2.0,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Distribution-balanced loss: rebalanced weights, and negatives that are let off early (Wu et al., 2020,
    arXiv:2007.09654).

    With w of ``rebalanced_weights``, the frequency :math:`π = n / N` of each label, λ = ``negative_scale`` and
    :math:`u = z - \frac{κ}{λ} \log(1/π - 1)`:

    .. math:: \ell = w \Big( y\, σ(-u)^γ \log(1 + e^{-u}) + \frac{1 - y}{λ}\, σ(λ u)^γ \log(1 + e^{λ u}) \Big)

    The authors multiply it by 2, a matter of the learning rate.

    Args:
        logits: float [B, C]; computed in float32 or wider.
        targets: float [B, C] in 0..1 (or bool), the two terms mixed in between. No gradient flows into it.
        counts: float or int [C], n: samples with each label; taken between 1 and N - 1.
        total: N: all samples.
        alpha, beta, mu: as in ``rebalanced_weights``.
        kappa: κ >= 0: how far logits start from what the frequencies explain.
        negative_scale: λ >= 1: the larger, the sooner the gradient of a well-recognised negative fades. The authors: 2
            on COCO-MLT, 5 on VOC-MLT.
        gamma: how fast easy elements fade, >= 0.
        sample_weight: float [B] or ``logits``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``logits``'s shape; float32 for half precision. With w = 1 (β = 0, α = ½), κ = γ =
        0 and λ = 1 it is binary cross entropy.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> logits, targets, counts = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([90, 10])
        >>> distribution_balanced_loss(logits, targets, counts, 100, reduction="none")
        tensor([[0.1732, 0.0786]])
    """
    logits, targets = prepare_pair(logits, targets, ("logits", "targets"))
    if logits.dim() != 2 or counts.shape != logits.shape[1:2]:
        raise ValueError(
            f"counts has shape {list(counts.shape)}: give one number a class of logits {list(logits.shape)}"
        )
    counts = counts.to(logits).clamp(min=1, max=max(total - 1, 1))
    weight = rebalanced_weights(targets, counts, alpha=alpha, beta=beta, mu=mu)
    shift = kappa / negative_scale * (max(total, 2) / counts - 1).log()
    positive_logit = logits - shift
    negative_logit = negative_scale * positive_logit
    positive, negative = F.softplus(-positive_logit), F.softplus(negative_logit) / negative_scale
    if gamma:
        positive = safe_pow(torch.sigmoid(-positive_logit), gamma) * positive
        negative = safe_pow(torch.sigmoid(negative_logit), gamma) * negative
    return reduce_loss(weight * (targets * positive + (1 - targets) * negative), reduction, sample_weight)
