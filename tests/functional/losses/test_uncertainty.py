"""Likelihoods and quantiles against torch, scikit-learn and what minimises them; SciPy is in the contract table."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mean_pinball_loss
from torch import Tensor

from dlrecipes.functional.losses import gaussian_nll_loss, l1_loss, l2_loss, laplace_nll_loss, quantile_loss


def sample(n: int = 50) -> Tensor:
    return 2 * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1


def predictions(n: int = 50, k: int = 2) -> Tensor:
    return torch.randn(n, 1, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradient(value: Tensor, x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(value, x)
    return grad


def same_for_all(y: Tensor, *values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).expand(*y.shape, len(values)).clone().requires_grad_()


@pytest.mark.parametrize("weight", [None, torch.linspace(0, 2, 50)])
def test_pinball_is_sklearns(weight: Tensor | None) -> None:
    y, x = sample(), predictions(k=3)
    columns = x.detach().unbind(-1)
    each = None if weight is None else weight.numpy()
    theirs = [
        mean_pinball_loss(y.numpy(), column.numpy(), alpha=q, sample_weight=each)
        for q, column in zip((0.1, 0.5, 0.9), columns, strict=True)
    ]
    assert quantile_loss(x, y, sample_weight=weight).item() == pytest.approx(np.mean(theirs), rel=1e-6)


def test_pinball_of_the_median_is_half_the_absolute_error() -> None:
    y, x = sample(), predictions(k=1)
    torch.testing.assert_close(quantile_loss(x, y, quantiles=[0.5]), l1_loss(x[..., 0], y) / 2)


@pytest.mark.parametrize("q", [0.05, 0.5, 0.8])
def test_the_samples_quantile_minimises_pinball(q: float) -> None:
    y = sample(201)
    grid = torch.linspace(-6, 8, 1401, dtype=torch.float64)
    losses = torch.stack([quantile_loss(v.expand(*y.shape, 1), y, quantiles=[q]) for v in grid])
    assert grid[losses.argmin()].item() == pytest.approx(np.quantile(y.numpy(), q), abs=0.02)


def test_gaussian_is_torchs_with_its_gradient() -> None:
    y, x = sample(), predictions()
    ours = gaussian_nll_loss(x, y)
    theirs = F.gaussian_nll_loss(x[..., 0], y, x[..., 1].exp(), full=True)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, x), gradient(theirs, x))


def test_mean_and_variance_of_the_sample_minimise_the_gaussian() -> None:
    y = sample()
    x = same_for_all(y, y.mean().item(), y.var(correction=0).log().item())
    torch.testing.assert_close(gradient(gaussian_nll_loss(x, y), x).sum((0, 1)), torch.zeros(2, dtype=torch.float64))


def test_median_and_mean_deviation_minimise_the_laplace() -> None:
    y = sample(51)
    x = same_for_all(y, y.median().item(), (y - y.median()).abs().mean().log().item())
    torch.testing.assert_close(gradient(laplace_nll_loss(x, y), x).sum((0, 1)), torch.zeros(2, dtype=torch.float64))


def test_beta_weighs_each_elements_gradient_by_its_variance() -> None:
    y, x = sample(), predictions()
    plain = gradient(gaussian_nll_loss(x, y), x)
    weighted = gradient(gaussian_nll_loss(x, y, beta=0.3), x)
    torch.testing.assert_close(weighted, x[..., 1:].detach().exp() ** 0.3 * plain)


def test_with_beta_one_the_mean_learns_as_by_squared_error() -> None:
    y, x = sample(), predictions()
    grad = gradient(gaussian_nll_loss(x, y, beta=1.0), x)
    torch.testing.assert_close(grad[..., 0], gradient(l2_loss(x[..., 0], y) / 2, x)[..., 0])


@pytest.mark.parametrize(
    ("loss", "border"), [(gaussian_nll_loss, 14.0), (laplace_nll_loss, 7.0)], ids=["gaussian", "laplace"]
)
@pytest.mark.parametrize(("side", "error"), [(-1, 5.0), (1, 0.0)], ids=["too-sure", "too-unsure"])
def test_beyond_its_range_the_spread_counts_as_the_border_and_is_pulled_back(
    loss: Callable[..., Tensor], border: float, side: int, error: float
) -> None:
    y = torch.zeros(1, 1)
    x = torch.tensor([[[error, side * 1e4]]], requires_grad=True)
    value = loss(x, y)
    assert value.item() == pytest.approx(loss(torch.tensor([[[error, side * border]]]), y).item())
    assert side * gradient(value, x)[0, 0, 1].item() > 0  # descent goes against it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("beta", [None, 0.0, 0.5, 1.0])
def test_likelihoods_of_huge_outputs_and_their_gradients_are_finite(dtype: torch.dtype, beta: float | None) -> None:
    outputs = torch.tensor(list(itertools.product((-1e4, 0.0, 1e4), repeat=2)), dtype=dtype)[:, None]
    x, y = outputs.requires_grad_(), torch.full((9, 1), -1e4)
    value = laplace_nll_loss(x, y) if beta is None else gaussian_nll_loss(x, y, beta=beta)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(gradient(value, x)).all()


def test_values_stay_finite_in_float16() -> None:
    x = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]], dtype=torch.float16)
    for loss in (gaussian_nll_loss, laplace_nll_loss):
        assert torch.isfinite(loss(x, torch.zeros(2, 1)))


@pytest.mark.parametrize("loss", [gaussian_nll_loss, laplace_nll_loss, quantile_loss])
def test_nan_stays_nan(loss: Callable[..., Tensor]) -> None:
    k = 3 if loss is quantile_loss else 2
    assert math.isnan(loss(torch.full((1, 1, k), math.nan), torch.zeros(1, 1)))


def test_too_few_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input has shape \[4, 2\]: with target \[4, 2\] this loss takes \[4, 2, 3\]"):
        quantile_loss(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="2 numbers for each target"):
        gaussian_nll_loss(torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="2 numbers for each target"):
        laplace_nll_loss(torch.zeros(4, 2, 3), torch.zeros(4, 2))
