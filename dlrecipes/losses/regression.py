"""Regression losses as modules. Formulas: ``dlrecipes.functional.losses``.

``outputs_per_target`` says how many numbers a network must give for each target. Where that is 1, input and target are
[B, T]; otherwise the input is [B, T, k], and ``point`` turns it into one prediction for each target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.functional.losses.regression import (
    huber_loss,
    l1_loss,
    l2_loss,
    log_cosh_loss,
    smooth_l1_loss,
    tukey_loss,
)
from dlrecipes.functional.losses.uncertainty import gaussian_nll_loss, laplace_nll_loss, quantile_loss
from dlrecipes.losses.base import RegressionLoss

__all__ = [
    "GaussianNLLLoss",
    "HuberLoss",
    "L1Loss",
    "L2Loss",
    "LaplaceNLLLoss",
    "LogCoshLoss",
    "QuantileLoss",
    "SmoothL1Loss",
    "TukeyLoss",
]


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}: use a finite number above 0")


def _check_range(name: str, value: Sequence[float]) -> tuple[float, float]:
    if len(value) != 2 or not value[0] < value[1]:
        raise ValueError(f"{name} is {tuple(value)}: use two numbers, the lower one first")
    return value[0], value[1]


class L1Loss(RegressionLoss):
    """Absolute error: see ``dlrecipes.functional.losses.l1_loss``.

    Example:
        >>> import torch
        >>> L1Loss()(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
        tensor(2.)
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss; ``sample_weight`` [B]."""
        return l1_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)


class L2Loss(RegressionLoss):
    """Squared error, without the factor ½: see ``dlrecipes.functional.losses.l2_loss``.

    Example:
        >>> import torch
        >>> L2Loss()(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
        tensor(5.)
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss; ``sample_weight`` [B]."""
        return l2_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)


class HuberLoss(RegressionLoss):
    """Squared near the target, absolute far from it: see ``dlrecipes.functional.losses.huber_loss``.

    Args:
        delta: > 0, in the targets' units: where errors begin to count as outliers.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, delta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        _check_positive("delta", delta)
        self.delta = delta

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss; ``sample_weight`` [B]."""
        return huber_loss(input, target, delta=self.delta, sample_weight=sample_weight, reduction=self.reduction)


class SmoothL1Loss(RegressionLoss):
    """Absolute error with a rounded tip: see ``dlrecipes.functional.losses.smooth_l1_loss``.

    Args:
        beta: >= 0, in the targets' units: below it the loss is squared.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, beta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}: use a finite number, 0 or more")
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss; ``sample_weight`` [B]."""
        return smooth_l1_loss(input, target, beta=self.beta, sample_weight=sample_weight, reduction=self.reduction)


class LogCoshLoss(RegressionLoss):
    """Like Huber's, and smooth everywhere: see ``dlrecipes.functional.losses.log_cosh_loss``."""

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss; ``sample_weight`` [B]."""
        return log_cosh_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)


class TukeyLoss(RegressionLoss):
    """An outlier costs a constant and has no gradient: see ``dlrecipes.functional.losses.tukey_loss``.

    Args:
        c: > 0, in units of the residuals' spread: where the loss becomes constant.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, c: float = 4.685, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        _check_positive("c", c)
        self.c = c

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [B, T] → loss; ``sample_weight`` [B]."""
        return tukey_loss(input, target, c=self.c, sample_weight=sample_weight, reduction=self.reduction)


class QuantileLoss(RegressionLoss):
    """Several quantiles at once: see ``dlrecipes.functional.losses.quantile_loss``.

    Args:
        quantiles: strictly between 0 and 1, ascending.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = QuantileLoss((0.25, 0.75))
        >>> loss.outputs_per_target
        2
        >>> loss(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[1.0]]))
        tensor(0.2500)
    """

    def __init__(self, quantiles: Sequence[float] = (0.1, 0.5, 0.9), reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        edges = (0.0, *quantiles, 1.0)
        if not quantiles or any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"quantiles are {tuple(quantiles)}: use ascending numbers strictly between 0 and 1")
        self.quantiles = tuple(quantiles)

    @property
    def outputs_per_target(self) -> int:
        """One number for each quantile."""
        return len(self.quantiles)

    def point(self, output: Tensor) -> Tensor:
        """[B, T, k] → [B, T], the quantile nearest to the median."""
        return output[..., min(range(len(self.quantiles)), key=lambda i: abs(self.quantiles[i] - 0.5))]

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input [B, T, k] and target [B, T] → loss, [B, T, k] unreduced; ``sample_weight`` [B]."""
        return quantile_loss(
            input, target, quantiles=self.quantiles, sample_weight=sample_weight, reduction=self.reduction
        )


class GaussianNLLLoss(RegressionLoss):
    """Mean and log-variance of a normal distribution: see ``dlrecipes.functional.losses.gaussian_nll_loss``.

    Args:
        beta: of β-NLL, in 0..1; 0: the plain likelihood.
        log_variance_range: what lies beyond counts as its border.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> output = torch.tensor([[[3.0, 0.0]]])  # for one image and one target: mean 3, log-variance 0
        >>> GaussianNLLLoss()(output, torch.tensor([[2.0]]))
        tensor(1.4189)
        >>> GaussianNLLLoss().point(output)
        tensor([[3.]])
    """

    def __init__(
        self,
        beta: float = 0.0,
        log_variance_range: tuple[float, float] = (-14.0, 14.0),
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}: use a number from 0 to 1")
        self.beta = beta
        self.log_variance_range = _check_range("log_variance_range", log_variance_range)

    @property
    def outputs_per_target(self) -> int:
        """Mean and log-variance."""
        return 2

    def point(self, output: Tensor) -> Tensor:
        """[B, T, 2] → [B, T], the mean."""
        return output[..., 0]

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input [B, T, 2] and target [B, T] → loss; ``sample_weight`` [B]."""
        return gaussian_nll_loss(
            input,
            target,
            beta=self.beta,
            log_variance_range=self.log_variance_range,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class LaplaceNLLLoss(RegressionLoss):
    """Location and log-scale of a Laplace distribution: see ``dlrecipes.functional.losses.laplace_nll_loss``.

    Args:
        log_scale_range: what lies beyond counts as its border.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, log_scale_range: tuple[float, float] = (-7.0, 7.0), reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.log_scale_range = _check_range("log_scale_range", log_scale_range)

    @property
    def outputs_per_target(self) -> int:
        """Location and log-scale."""
        return 2

    def point(self, output: Tensor) -> Tensor:
        """[B, T, 2] → [B, T], the location."""
        return output[..., 0]

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input [B, T, 2] and target [B, T] → loss; ``sample_weight`` [B]."""
        return laplace_nll_loss(
            input,
            target,
            log_scale_range=self.log_scale_range,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
