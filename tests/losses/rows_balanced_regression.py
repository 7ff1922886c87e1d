"""Rows of balanced MSE. References are SciPy's densities."""

from collections.abc import Callable

import numpy as np
import torch
from contracts import Row
from scipy import stats
from torch import Tensor, nn

from dlrecipes.losses import BalancedMSELoss, GAILoss

__all__ = ["ROWS"]

TARGETS = 2
NOISE = 0.8
MIXTURE = ([0.75, 0.25], [[0.0, 1.0], [2.0, -1.0]], [[1.0, 0.5], [0.25, 2.0]])


def _inputs(n: int) -> Tensor:
    return 2 * torch.randn(n, TARGETS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def _targets(n: int) -> Tensor:
    return torch.randn(n, TARGETS, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def _normal(mean: object, variance: object) -> stats.rv_continuous:
    return stats.multivariate_normal(np.asarray(mean), np.diag(np.asarray(variance) * np.ones(TARGETS)))


def _bmc(x: Tensor, y: Tensor) -> Tensor:
    density = np.array([[_normal(a, NOISE**2).pdf(b) for b in y.numpy()] for a in x.numpy()])
    return torch.from_numpy(-2 * NOISE**2 * np.log(np.diag(density) / density.sum(1)))


def _gai(weights: list[float], means: list[list[float]], variances: list[list[float]]) -> Callable[..., Tensor]:
    def reference(x: Tensor, y: Tensor) -> Tensor:
        losses = []
        for a, b in zip(x.numpy(), y.numpy(), strict=True):
            balance = sum(
                w * _normal(m, np.array(v) + NOISE**2).pdf(a) for w, m, v in zip(weights, means, variances, strict=True)
            )
            losses.append(2 * NOISE**2 * (np.log(balance) - _normal(a, NOISE**2).logpdf(b)))
        return torch.tensor(np.array(losses))

    return reference


def _row(name: str, make: Callable[..., nn.Module], reference: Callable[..., Tensor], of_batch: bool) -> Row:
    return Row(name=name, make=make, inputs=_inputs, targets=_targets, reference=reference, of_batch=of_batch)


ROWS = [
    _row("BalancedMSELoss", lambda reduction: BalancedMSELoss(NOISE, reduction=reduction), _bmc, True),
    _row("GAILoss", lambda reduction: GAILoss(*MIXTURE, NOISE, reduction=reduction), _gai(*MIXTURE), False),
    _row(
        "GAILoss-normal",
        lambda reduction: GAILoss(noise=NOISE, reduction=reduction),
        _gai([1.0], [[0.0, 0.0]], [[1.0, 1.0]]),
        False,
    ),
]
