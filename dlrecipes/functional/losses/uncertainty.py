"""Regression losses that want several numbers for each target, so that a network also says how sure it is.

All take ``input`` [B, T, k] for ``target`` [B, T], compute in float32 or wider, and let no gradient into the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlrecipes.functional.losses.reduce import reduce_loss, upcast

__all__ = ["gaussian_nll_loss", "laplace_nll_loss", "quantile_loss"]


def _prepare(input: Tensor, target: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Both in the dtype to compute in."""
    if input.shape != (*target.shape, k):
        raise ValueError(
            f"input has shape {list(input.shape)}: with target {list(target.shape)} this loss takes "
            f"{[*target.shape, k]}, {k} numbers for each target"
        )
    input = upcast(input)
    return input, target.detach().to(input.dtype)


def _keep_between(x: Tensor, low: float, high: float) -> Tensor:
    """``x.clamp(low, high)`` that lets the gradient through: clamp's own is 0 outside, from where no way leads back."""
    return x.clamp(low, high).detach() + (x - x.detach())


def quantile_loss(
    input: Tensor,
    target: Tensor,
    *,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Pinball loss of several quantiles at once (Koenker and Bassett, 1978, doi:10.2307/1913643).

    With :math:`d = y - x_q`, for each quantile q; half the absolute error for q = ½:

    .. math:: \ell_q = \max\left(q\,d,\; (q - 1)\,d\right)

    Nothing keeps the quantiles in order: where a network lets them cross, sort its outputs at prediction.

    Args:
        input: float [..., k], one column a quantile.
        target: float [...].
        quantiles: k numbers strictly between 0 and 1.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements and quantiles, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> quantile_loss(torch.tensor([[[-1.0, 0.0, 4.0]]]), torch.tensor([[1.0]]), reduction="none")
        tensor([[[0.2000, 0.5000, 0.3000]]])
    """
    input, target = _prepare(input, target, len(quantiles))
    # column by column: a tensor of the quantiles would be one more copy to the device in every step
    columns = [
        torch.maximum(q * (target - column), (q - 1) * (target - column))
        for q, column in zip(quantiles, input.unbind(-1), strict=True)
    ]
    return reduce_loss(torch.stack(columns, dim=-1), reduction, sample_weight)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 0.0,
    log_variance_range: tuple[float, float] = (-14.0, 14.0),
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log-likelihood of a normal distribution whose variance is predicted, too (Nix and Weigend, 1994,
    doi:10.1109/ICNN.1994.374138); with β, β-NLL (Seitzer et al., 2022, arXiv:2203.09168).

    With the log-variance s, and :math:`\lfloor\cdot\rfloor` letting no gradient through:

    .. math:: \ell = \lfloor e^{\beta s} \rfloor\, \tfrac12 \left(s + (y - \mu)^2 e^{-s} + \log 2\pi\right)

    The constant :math:`\log 2\pi` is in it: without β the value is the density's, in nats, comparable to Laplace's.

    Args:
        input: float [..., 2], mean and log-variance. In float16 the gradient is infinite where its true value exceeds
            65504 (an error of 1 at a variance of 1e-5); a ``GradScaler`` then skips the step.
        target: float [...].
        beta: in 0..1. 0: the likelihood, in which the mean learns little where the variance is large. 1: the mean
            learns as by squared error. The authors advise 0.5.
        log_variance_range: s beyond it counts as its border: of standardised targets, 1e-3 to 1e3 standard deviations.
            Its gradient passes, so that it can come back.
        sample_weight: float [B] or ``target``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``target``'s shape; float32 for half precision. It may be negative.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> gaussian_nll_loss(torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]), torch.ones(1, 2), reduction="none")
        tensor([[1.4189, 1.9866]])
    """
    input, target = _prepare(input, target, 2)
    mean, log_variance = input.unbind(-1)
    log_variance = _keep_between(log_variance, *log_variance_range)
    loss = 0.5 * (log_variance + (target - mean).square() * (-log_variance).exp() + math.log(2 * math.pi))
    if beta:
        loss = loss * (beta * log_variance.detach()).exp()
    return reduce_loss(loss, reduction, sample_weight)


def laplace_nll_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_scale_range: tuple[float, float] = (-7.0, 7.0),
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log-likelihood of a Laplace distribution whose scale is predicted, too: to the absolute error what the
    Gaussian's is to the squared one, so less moved by outliers (Kendall and Gal, 2017, arXiv:1703.04977).

    With the logarithm s of the scale (the mean absolute deviation), constant included:

    .. math:: \ell = s + |y - \mu|\, e^{-s} + \log 2

    Args:
        input: float [..., 2], location (mean and median) and log-scale. In float16 the gradient is infinite where its
            true value exceeds 65504; a ``GradScaler`` then skips the step.
        target: float [...].
        log_scale_range: s beyond it counts as its border: of standardised targets, 1e-3 to 1e3 standard deviations. Its
            gradient passes, so that it can come back.
        sample_weight: float [B] or ``target``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``target``'s shape; float32 for half precision. It may be negative.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> laplace_nll_loss(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]), torch.ones(1, 2), reduction="none")
        tensor([[1.6931, 2.0610]])
    """
    input, target = _prepare(input, target, 2)
    location, log_scale = input.unbind(-1)
    log_scale = _keep_between(log_scale, *log_scale_range)
    loss = log_scale + (target - location).abs() * (-log_scale).exp() + math.log(2)
    return reduce_loss(loss, reduction, sample_weight)
