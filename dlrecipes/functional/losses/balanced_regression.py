"""Squared errors that allow for some targets being rare: balanced MSE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import prepare_pair, reduce_loss

__all__ = ["balanced_mse_loss", "gai_loss"]


def _prepare(input: Tensor, target: Tensor, noise: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Input, target and the noise's variance in the dtype to compute in."""
    input, target = prepare_pair(input, target)
    if input.dim() != 2:
        raise ValueError(f"input has shape {list(input.shape)}: [batch, targets] is needed")
    sigma = noise.to(input) if isinstance(noise, Tensor) else input.new_full((), noise)  # without a copy from the host
    return input, target, sigma.square()


def balanced_mse_loss(
    input: Tensor,
    target: Tensor,
    noise: Tensor | float = 1.0,
    *,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Balanced MSE, with the batch as a sample of the targets (Ren et al., 2022, arXiv:2203.16427: BMC).

    The prediction should be nearer to its own target than to the others of the batch, which are as unbalanced as the
    data; the bare prediction then fits balanced targets. With σ the noise, over all targets of a sample together:

    .. math:: \ell_i = -2σ^2 \log \frac{\exp(-\|x_i - y_i\|^2 / 2σ^2)}{\sum_j \exp(-\|x_i - y_j\|^2 / 2σ^2)}

    No gradient flows into the factor 2σ² in front (the authors' code): it keeps the step's size.

    Args:
        input: float [B, T].
        target: same shape.
        noise: σ > 0, in the targets' units: the spread of the errors; may be learned.
        sample_weight: float [B].
        reduction: ``"none"``, ``"mean"`` (weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` [B]; float32 for half precision. A batch of one costs 0.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> balanced_mse_loss(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0], [1.0]]), reduction="none")
        tensor([0.9482, 1.9482])
    """
    input, target, variance = _prepare(input, target, noise)
    distance = (input.unsqueeze(1) - target.unsqueeze(0)).square().sum(-1)
    own = torch.arange(len(input), device=input.device)
    loss = F.cross_entropy(distance / (-2 * variance), own, reduction="none")
    return reduce_loss(2 * variance.detach() * loss, reduction, sample_weight)


def gai_loss(
    input: Tensor,
    target: Tensor,
    mixture_weights: Tensor,
    mixture_means: Tensor,
    mixture_variances: Tensor,
    noise: Tensor | float = 1.0,
    *,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Balanced MSE, with a mixture of Gaussians for the targets' distribution (Ren et al., 2022, arXiv:2203.16427:
    GAI). What BMC estimates from the batch has a closed form then, so a sample's loss is its own.

    With K components of weight φ, mean μ and variance s² (diagonal), σ the noise:

    .. math:: \ell = 2σ^2 \Big( -\log N(y; x, σ^2) + \log \sum_k φ_k N(x; μ_k, s_k^2 + σ^2) \Big)

    No gradient flows into the factor 2σ² in front.

    Args:
        input: float [B, T].
        target: same shape.
        mixture_weights: float [K], φ; scaled to sum 1.
        mixture_means: float [K, T], μ.
        mixture_variances: float [K, T], s² > 0.
        noise: σ > 0, in the targets' units; may be learned.
        sample_weight: float [B].
        reduction: ``"none"``, ``"mean"`` (weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` [B]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> one = torch.ones(1)
        >>> gai_loss(torch.zeros(1, 1), torch.zeros(1, 1), one, torch.zeros(1, 1), torch.ones(1, 1))  # -log 2
        tensor(-0.6931)
    """
    input, target, variance = _prepare(input, target, noise)
    shape = [len(mixture_weights), input.shape[1]]
    if list(mixture_means.shape) != shape or list(mixture_variances.shape) != shape:
        raise ValueError(
            f"mixture_means and mixture_variances have shapes {list(mixture_means.shape)} and "
            f"{list(mixture_variances.shape)}: [components, targets], {shape}, is needed"
        )
    likelihood = -_half_mahalanobis(input - target, variance)
    total = mixture_variances.to(input) + variance
    components = -_half_mahalanobis(input.unsqueeze(1) - mixture_means.to(input), total)
    share = mixture_weights.to(input)
    balance = torch.logsumexp(components + (share / share.sum()).log(), 1)
    return reduce_loss(2 * variance.detach() * (balance - likelihood), reduction, sample_weight)


def _half_mahalanobis(difference: Tensor, variance: Tensor) -> Tensor:
    """Minus the log-density of a normal distribution, without the constant, summed over the last axis."""
    return 0.5 * (difference.square() / variance + variance.log()).sum(-1)
