"""Losses on the difference of one number and its target.

All take ``(input, target)`` of one shape, compute in float32 or wider, and let no gradient into the target. They expect
targets of roughly unit scale (``RegressionTask`` standardises): thresholds such as Huber's δ are in the targets' units.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import prepare_pair, reduce_loss

__all__ = ["huber_loss", "l1_loss", "l2_loss", "log_cosh_loss", "smooth_l1_loss", "tukey_loss"]


def l1_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    r"""Absolute error; its best constant prediction is the median.

    .. math:: \ell = |x - y|

    Args:
        input: float [B, ...].
        target: same shape.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> import torch
        >>> l1_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 5.0]))
        tensor(2.)
    """
    input, target = prepare_pair(input, target)
    return reduce_loss(F.l1_loss(input, target, reduction="none"), reduction, sample_weight)


def l2_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    r"""Squared error, without the factor ½ (torch's convention); its best constant prediction is the mean.

    .. math:: \ell = (x - y)^2

    Args:
        input: float [B, ...].
        target: same shape.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> import torch
        >>> l2_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 5.0]))
        tensor(5.)
    """
    input, target = prepare_pair(input, target)
    return reduce_loss(F.mse_loss(input, target, reduction="none"), reduction, sample_weight)


def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Squared near the target, absolute far from it (Huber, 1964, doi:10.1214/aoms/1177703732).

    With :math:`d = |x - y|`; half the squared error for :math:`\delta \to \infty`:

    .. math:: \ell = \tfrac12 d^2 \text{ if } d \le \delta, \text{ else } \delta\,(d - \tfrac12 \delta)

    Args:
        input: float [B, ...].
        target: same shape.
        delta: δ > 0, in the targets' units: where errors begin to count as outliers.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, δ not above 0, an unknown reduction.

    Example:
        >>> import torch
        >>> huber_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), reduction="none")
        tensor([0.1250, 2.5000])
    """
    if delta <= 0:  # torch raises this only where there are elements
        raise ValueError(f"delta is {delta}: use a number above 0")
    input, target = prepare_pair(input, target)
    return reduce_loss(F.huber_loss(input, target, reduction="none", delta=delta), reduction, sample_weight)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Absolute error with a rounded tip: Huber's loss over β, so that its slope far away is 1 (Girshick, 2015,
    arXiv:1504.08083, eq. 3).

    With :math:`d = |x - y|`; the absolute error for :math:`\beta = 0`:

    .. math:: \ell = d^2 / (2 \beta) \text{ if } d < \beta, \text{ else } d - \tfrac12 \beta

    Args:
        input: float [B, ...].
        target: same shape.
        beta: β >= 0, in the targets' units: below it the loss is squared.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, β below 0, an unknown reduction.

    Example:
        >>> import torch
        >>> smooth_l1_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), beta=2.0, reduction="none")
        tensor([0.0625, 2.0000])
    """
    if beta < 0:
        raise ValueError(f"beta is {beta}: use 0 or more")
    input, target = prepare_pair(input, target)
    return reduce_loss(F.smooth_l1_loss(input, target, reduction="none", beta=beta), reduction, sample_weight)


def log_cosh_loss(
    input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    r"""Logarithm of the hyperbolic cosine: half the squared error near the target, the absolute error less log 2 far
    from it, and smooth everywhere; the gradient is :math:`\tanh d`.

    With :math:`d = x - y`, in a form that cannot overflow (absolute rounding error about 1e-7 in float32):

    .. math:: \ell = \log\cosh d = |d| + \operatorname{softplus}(-2|d|) - \log 2

    Args:
        input: float [B, ...].
        target: same shape.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction.

    Example:
        >>> import torch
        >>> log_cosh_loss(torch.tensor([0.5, 100.0]), torch.zeros(2), reduction="none")
        tensor([ 0.1201, 99.3069])
    """
    input, target = prepare_pair(input, target)
    distance = (input - target).abs()
    return reduce_loss(distance + F.softplus(-2 * distance) - math.log(2), reduction, sample_weight)


def tukey_loss(
    input: Tensor,
    target: Tensor,
    *,
    c: float = 4.685,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Tukey's biweight: an outlier costs a constant and has no gradient (Beaton and Tukey, 1974,
    doi:10.1080/00401706.1974.10489171; for networks Belagiannis et al., 2015, arXiv:1505.06606).

    With :math:`u = \min((x - y)^2 / c^2,\, 1)`:

    .. math:: \ell = \tfrac{c^2}{6} \left(1 - (1 - u)^3\right)

    The residuals must already be in units of their own spread (their standard deviation without outliers, or 1.4826
    times the median of their absolute values): nothing is estimated here, so that the loss of an element does not
    depend on its batch. As nothing pulls in what lies beyond c, start from a fit by another loss, such as Huber's.

    Args:
        input: float [B, ...].
        target: same shape.
        c: > 0, where the loss becomes constant; 4.685 has 95 % of the squared error's efficiency on normal residuals.
        sample_weight: float [B] or ``input``'s shape.
        reduction: ``"none"``, ``"mean"`` (over elements, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` ``input``'s shape; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, c not above 0, an unknown reduction.

    Example:
        >>> import torch
        >>> tukey_loss(torch.tensor([1.0, 5.0, 500.0]), torch.zeros(3), reduction="none")
        tensor([0.4776, 3.6582, 3.6582])
    """
    if c <= 0:
        raise ValueError(f"c is {c}: use a number above 0")
    input, target = prepare_pair(input, target)
    u = ((input - target) / c).square().clamp(max=1)
    # 1 - (1 - u)³ multiplied out: it keeps its digits where u is small
    return reduce_loss(c**2 / 6 * u * (3 - 3 * u + u.square()), reduction, sample_weight)
