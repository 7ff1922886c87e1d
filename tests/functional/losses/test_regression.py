"""Regression losses against scikit-learn and closed forms; the contract table asks what all losses keep."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error
from torch import Tensor

from dlrecipes.functional.losses import huber_loss, l1_loss, l2_loss, log_cosh_loss, smooth_l1_loss, tukey_loss

ALL = [l1_loss, l2_loss, huber_loss, smooth_l1_loss, log_cosh_loss, tukey_loss]


def pair(n: int = 40, t: int = 3) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, n, t, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return 3 * x, y


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss(x.requires_grad_()).sum(), x)
    return grad


@pytest.mark.parametrize(("loss", "theirs"), [(l1_loss, mean_absolute_error), (l2_loss, mean_squared_error)])
def test_weighted_mean_is_sklearns(loss: Callable[..., Tensor], theirs: Callable[..., float]) -> None:
    x, y = pair()
    weight = torch.linspace(0, 2, len(x))
    expected = theirs(y.numpy(), x.numpy(), sample_weight=weight.numpy())
    assert loss(x, y, sample_weight=weight).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda x, y: huber_loss(x, y, delta=1e6), lambda x, y: l2_loss(x, y) / 2),
        (lambda x, y: huber_loss(x, y, delta=1e-6) / 1e-6, l1_loss),
        (lambda x, y: smooth_l1_loss(x, y, beta=0), l1_loss),
        (lambda x, y: smooth_l1_loss(x, y, beta=0.7), lambda x, y: huber_loss(x, y, delta=0.7) / 0.7),
        (lambda x, y: tukey_loss(x, y, c=1e4), lambda x, y: l2_loss(x, y) / 2),
        (lambda x, y: log_cosh_loss(1e-3 * x, 1e-3 * y) * 1e6, lambda x, y: l2_loss(x, y) / 2),
        (lambda x, y: log_cosh_loss(1e6 * x, 1e6 * y) / 1e6, l1_loss),
    ],
    ids=["huber-large", "huber-small", "smooth-zero", "smooth-huber", "tukey-large", "cosh-near", "cosh-far"],
)
def test_limits(loss: Callable[..., Tensor], expected: Callable[..., Tensor]) -> None:
    x, y = pair()
    torch.testing.assert_close(loss(x, y), expected(x, y), rtol=1e-5, atol=1e-5)


def test_gradient_of_log_cosh_is_tanh() -> None:
    x = torch.tensor([-1e4, -3.0, -1e-2, 0.0, 0.5, 40.0], dtype=torch.float64)
    grad = gradient(lambda x: log_cosh_loss(x, torch.zeros_like(x), reduction="none"), x)
    torch.testing.assert_close(grad, x.detach().tanh())


def test_gradient_of_tukey_comes_down_again_to_zero() -> None:
    r = torch.tensor([0.0, 1.0, -2.0, 4.6, 4.7, -1e4], dtype=torch.float64)
    grad = gradient(lambda x: tukey_loss(x, torch.zeros_like(x), reduction="none"), r)
    d = r.detach().numpy()
    biweight = np.where(np.abs(d) < 4.685, d * (1 - (d / 4.685) ** 2) ** 2, 0)
    torch.testing.assert_close(grad, torch.as_tensor(biweight))


def test_tukey_keeps_its_digits_near_the_target() -> None:
    assert tukey_loss(torch.tensor([1e-3]), torch.zeros(1)).item() == pytest.approx(5e-7, rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_no_gradient_into_the_target(loss: Callable[..., Tensor]) -> None:
    x, y = pair()
    assert loss(x.requires_grad_(), y.requires_grad_()).requires_grad
    assert not loss(x.detach(), y).requires_grad


@pytest.mark.parametrize("loss", ALL)
def test_integer_targets_and_half_precision_compute_in_float32(loss: Callable[..., Tensor]) -> None:
    value = loss(torch.tensor([[0.5], [2.0]], dtype=torch.bfloat16), torch.tensor([[300], [2]]))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(torch.tensor([[0.5], [2.0]]), torch.tensor([[300.0], [2.0]])))


@pytest.mark.parametrize("loss", ALL)
def test_nan_stays_nan(loss: Callable[..., Tensor]) -> None:
    assert math.isnan(loss(torch.tensor([math.nan, 0.0]), torch.zeros(2)))


@pytest.mark.parametrize("loss", ALL)
def test_shapes_that_would_broadcast_are_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"target has shape \[4\], but input has \[4, 1\]"):
        loss(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize(
    ("loss", "arguments"), [(huber_loss, {"delta": 0.0}), (smooth_l1_loss, {"beta": -1.0}), (tukey_loss, {"c": 0.0})]
)
def test_thresholds_out_of_range_are_refused_even_without_elements(
    loss: Callable[..., Tensor], arguments: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} is"):
        loss(torch.zeros(0, 1), torch.zeros(0, 1), **arguments)
