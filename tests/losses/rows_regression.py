"""Rows of the regression losses. References are NumPy and SciPy."""

from collections.abc import Callable

import numpy as np
import torch
from contracts import Row
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from dlrecipes.losses import (
    GaussianNLLLoss,
    HuberLoss,
    L1Loss,
    L2Loss,
    LaplaceNLLLoss,
    LogCoshLoss,
    QuantileLoss,
    SmoothL1Loss,
    TukeyLoss,
)

__all__ = ["ROWS"]

TARGETS = 2
QUANTILES = (0.1, 0.5, 0.8)


def _inputs(*shape: int) -> Callable[[int], Tensor]:
    def make(n: int) -> Tensor:
        return 2 * torch.randn(n, TARGETS, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    return make


def _targets(n: int) -> Tensor:
    return torch.randn(n, TARGETS, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def _reference(formula: Callable[[NDArray[np.float64], NDArray[np.float64]], object]) -> Callable[..., Tensor]:
    return lambda x, y: torch.as_tensor(np.asarray(formula(x.numpy(), y.numpy())))


def _huber(delta: float) -> Callable[..., object]:
    def formula(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        d = np.abs(x - y)
        return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))

    return formula


def _tukey(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    r = x - y
    return np.where(np.abs(r) <= 2.5, 2.5**2 / 6 * (1 - (1 - (r / 2.5) ** 2) ** 3), 2.5**2 / 6)


def _pinball(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    d = y[..., None] - x
    q = np.array(QUANTILES)
    return np.where(d > 0, q * d, (q - 1) * d)


def _gaussian(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return -stats.norm.logpdf(y, x[..., 0], np.exp(x[..., 1] / 2))


def _beta_gaussian(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(x[..., 1]) ** 0.5 * _gaussian(x, y)


def _laplace(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return -stats.laplace.logpdf(y, x[..., 0], np.exp(x[..., 1]))


def _row(name: str, make: Callable[..., torch.nn.Module], formula: Callable[..., object], *shape: int) -> Row:
    return Row(name=name, make=make, inputs=_inputs(*shape), targets=_targets, reference=_reference(formula))


def _likelihood(name: str, make: Callable[..., torch.nn.Module], formula: Callable[..., object], smooth: bool) -> Row:
    # ± 1e4 as a log-variance asks for gradients that float16 does not have; test_uncertainty.py asks the other dtypes
    return Row(
        name=name,
        make=make,
        inputs=_inputs(2),
        targets=_targets,
        reference=_reference(formula),
        gradcheck=smooth,
        huge=8.0,
    )


ROWS = [
    _row("L1Loss", L1Loss, lambda x, y: np.abs(x - y)),
    _row("L2Loss", L2Loss, lambda x, y: (x - y) ** 2),
    _row("HuberLoss", lambda reduction: HuberLoss(1.5, reduction=reduction), _huber(1.5)),
    _row(
        "SmoothL1Loss",
        lambda reduction: SmoothL1Loss(1.5, reduction=reduction),
        lambda x, y: np.asarray(_huber(1.5)(x, y)) / 1.5,
    ),
    _row("LogCoshLoss", LogCoshLoss, lambda x, y: np.log(np.cosh(x - y))),
    _row("TukeyLoss", lambda reduction: TukeyLoss(2.5, reduction=reduction), _tukey),
    _row("QuantileLoss", lambda reduction: QuantileLoss(QUANTILES, reduction=reduction), _pinball, len(QUANTILES)),
    _likelihood("GaussianNLLLoss", GaussianNLLLoss, _gaussian, smooth=True),
    # β-NLL stops the gradient of its weight, so its gradient is no value's
    _likelihood(
        "GaussianNLLLoss-beta",
        lambda reduction: GaussianNLLLoss(beta=0.5, reduction=reduction),
        _beta_gaussian,
        smooth=False,
    ),
    _likelihood("LaplaceNLLLoss", LaplaceNLLLoss, _laplace, smooth=True),
]
