"""Density ratios: closed forms against brute force, Gaussians against their true ratio, refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.distance import pdist
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.shift.density_ratio import (
    RATIO_METHODS,
    DensityRatio,
    importance_weights,
    kliep,
    logistic_ratio,
    ulsif,
    ulsif_coefficients,
    ulsif_leave_one_out,
)

_METHODS = {
    "logistic": partial(logistic_ratio, strengths=[0.1, 1.0]),
    "ulsif": partial(ulsif, centres=30),
    "kliep": partial(kliep, centres=12, sigmas=[0.5, 1.0]),
}


def _normal(count: int, dim: int, seed: int, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(count, dim, generator=generator, dtype=torch.float64)


def _kernels(seed: int, n: int = 14, m: int = 11, b: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(k, b, generator=generator, dtype=torch.float64) for k in (n, m))  # type: ignore[return-value]


def test_ulsif_solves_its_linear_system() -> None:
    at_train, at_new = _kernels(0)
    a, c = at_train.numpy(), at_new.numpy()
    expected = np.linalg.inv(a.T @ a / len(a) + 0.3 * np.eye(4)) @ (c.mean(0) - a.mean(0))
    found = ulsif_coefficients(at_train, at_new, 0.3)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)

    def objective(alpha: np.ndarray) -> float:
        return float(((1 + a @ alpha) ** 2).mean() / 2 - (1 + c @ alpha).mean() + 0.15 * alpha @ alpha)

    for step in 1e-4 * np.eye(4):
        assert objective(expected) < min(objective(expected + step), objective(expected - step))


@pytest.mark.parametrize(("n", "m"), [(14, 11), (9, 13)])
def test_leave_one_out_equals_fitting_again_without_each_pair(n: int, m: int) -> None:
    at_train, at_new = _kernels(1, n, m)
    scores = []
    for i in range(min(n, m)):
        rest = torch.arange(n) != i, torch.arange(m) != i
        alpha = ulsif_coefficients(at_train[rest[0]], at_new[rest[1]], 0.05)
        w_train, w_new = (max(0.0, 1 + float(row @ alpha)) for row in (at_train[i], at_new[i]))
        scores.append(w_train**2 / 2 - w_new)
    assert ulsif_leave_one_out(at_train, at_new, 0.05) == pytest.approx(np.mean(scores), rel=1e-10)


def test_kliep_finds_the_optimum_that_a_general_solver_finds() -> None:
    train, new = _normal(60, 1, 2), _normal(50, 1, 3, mean=0.7)
    found = kliep(train, new, sigmas=[0.8], centres=6, seed=4)
    both = torch.cat((train, new))
    old, other = ((rows - both.mean(0)) / both.std(0) for rows in (train, new))
    chosen = np.random.default_rng((4, 50)).permutation(50)[:6]
    at_old, at_new = (np.exp(-((r - other[chosen].T).numpy() ** 2) / (2 * 0.8**2)) for r in (old, other))

    def value(alpha: np.ndarray) -> float:
        return -float(np.log(at_new @ alpha).mean())

    best = minimize(
        value,
        np.full(6, 1 / at_old.mean(0).sum()),
        bounds=[(0, None)] * 6,
        constraints={"type": "eq", "fun": lambda alpha: at_old.mean(0) @ alpha - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert best.success
    assert found.weights.numpy() == pytest.approx(at_old @ best.x, abs=0.03)


@pytest.mark.parametrize("method", RATIO_METHODS)
def test_gaussians_have_their_true_ratio(method: str) -> None:
    train, new = _normal(1500, 1, 5), _normal(1500, 1, 6, mean=0.6)
    found = _METHODS[method](train, new)
    truth = torch.exp(0.6 * train[:, 0] - 0.18)
    truth = truth / truth.mean()
    assert found.weights.mean().item() == pytest.approx(1, abs=1e-12)
    assert (found.weights >= 0).all()
    near = train[:, 0].abs() < (4 if method == "logistic" else 1.5)  # kernels end where the new samples do
    error = (found.weights - truth)[near].square().mean().sqrt() / truth[near].std()
    assert error < (0.15 if method == "logistic" else 0.35)


@pytest.mark.parametrize("method", RATIO_METHODS)
def test_nothing_shifted_means_nearly_equal_weights(method: str) -> None:
    found = _METHODS[method](_normal(200, 2, 7), _normal(200, 2, 8))
    assert found.efficiency > 0.85


def test_logistic_does_not_depend_on_scale_or_how_many_are_new() -> None:
    train, new = _normal(500, 2, 9), _normal(500, 2, 10, mean=0.4)
    few = logistic_ratio(train, new[:250], strengths=[1.0])
    large = logistic_ratio(
        train * torch.tensor([1e3, 1e-3]) + 7, new[:250] * torch.tensor([1e3, 1e-3]) + 7, strengths=[1.0]
    )
    assert torch.allclose(few.weights, large.weights, rtol=1e-3)


@pytest.mark.parametrize("method", [ulsif, kliep])
def test_widths_are_in_units_of_the_median_distance(method: Callable[..., DensityRatio]) -> None:
    """In 30 standardised dimensions that is about 8, and a width of 1 / 8 would see no sample but itself."""
    old, new = _normal(60, 30, 0), _normal(60, 30, 1, 0.2)
    rows = torch.cat((old, new)).numpy()
    median = float(np.median(pdist((rows - rows.mean(0)) / rows.std(0, ddof=1))))
    chosen = method(old, new, centres=20).settings["sigma"] / median
    assert min(abs(chosen - width) for width in (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0)) < 1e-3


def test_effective_sample_size_and_refusal() -> None:
    equal = DensityRatio(torch.ones(50, dtype=torch.float64), "by hand")
    assert equal.effective_sample_size == pytest.approx(50)
    one = torch.zeros(50, dtype=torch.float64)
    one[:4] = 12.5
    assert DensityRatio(one, "by hand").efficiency == pytest.approx(0.08)
    assert DensityRatio(one, "by hand").check(0.05).method == "by hand"
    with pytest.raises(UserError, match=r"4 of 50 training samples in effect \(8.0%, and 10% is the least"):
        DensityRatio(one, "by hand").check()
    far = _normal(100, 3, 11), _normal(100, 3, 12, mean=3.0)
    for method in RATIO_METHODS:
        with pytest.raises(UserError, match="label some of it"):
            _METHODS[method](*far).check()
    with pytest.raises(UserError, match="label some of it"):
        importance_weights(*far, "ulsif")


def test_weighted_average_of_old_data_is_that_of_new_data() -> None:
    """The purpose: a mean over N(0, 1), weighted, against the mean over N(.5, 1)."""
    train, new = _normal(4000, 1, 13), _normal(4000, 1, 14, mean=0.5)
    truth = 0.5**2 + 1
    plain = float(train.square().mean())
    weights = logistic_ratio(train, new, strengths=[1.0]).check().weights
    assert abs(float((weights * train[:, 0].square()).mean()) - truth) < abs(plain - truth) / 2


def test_wrong_arguments_are_named() -> None:
    train, new = _normal(20, 2, 15), _normal(20, 2, 16)
    with pytest.raises(ValueError, match="method='kmm'"):
        importance_weights(train, new, "kmm")
    with pytest.raises(ValueError, match="centres=0"):
        ulsif(train, new, centres=0)
    with pytest.raises(ValueError, match="above 0"):
        kliep(train, new, sigmas=[0.0])
    with pytest.raises(UserError, match="4 new samples"):
        logistic_ratio(train, new[:4])
    with pytest.raises(UserError, match="is nan"):
        logistic_ratio(train, new * math.nan)
