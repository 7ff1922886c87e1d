"""Label shift: adjusted predictions are Bayes' on a known mixture, EM finds the likeliest shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.shift.prior import adjust_predictions, em_prior, label_shift_weights, mixture_proportions

_MEANS = np.array([-1.0, 0.5, 1.5])


def _posterior(x: np.ndarray, prior: np.ndarray) -> Tensor:
    """p(c | x) of three Gaussian classes."""
    joint = norm.pdf(x[:, None], _MEANS) * prior
    return torch.from_numpy(joint / joint.sum(1, keepdims=True))


def _draw(prior: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=prior)
    return rng.normal(_MEANS[labels]), labels


def test_adjusted_predictions_are_those_of_bayes_under_the_new_prior() -> None:
    source, target = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    x, labels = _draw(target, 4000, 0)
    before = _posterior(x, source)
    after = adjust_predictions(before, source, target)
    assert torch.allclose(after, _posterior(x, target), atol=1e-12)
    assert torch.equal(adjust_predictions(before, target, target), before / before.sum(1, keepdim=True))
    truth = torch.from_numpy(labels)
    assert (after.argmax(1) == truth).double().mean() > (before.argmax(1) == truth).double().mean() + 0.05


def test_weighted_shares_of_old_labels_are_the_new_shares() -> None:
    counts = torch.tensor([60, 30, 10])
    labels = torch.repeat_interleave(torch.arange(3), counts)
    weights = label_shift_weights(counts, [0.2, 0.3, 0.5])[labels]
    assert weights.mean().item() == pytest.approx(1)
    shares = torch.stack([weights[labels == c].sum() for c in range(3)]) / len(labels)
    assert shares.tolist() == pytest.approx([0.2, 0.3, 0.5])


def test_em_is_the_maximum_that_a_general_solver_finds() -> None:
    source, target = np.array([0.5, 0.3, 0.2]), np.array([0.15, 0.25, 0.6])
    x, _ = _draw(target, 3000, 1)
    found = em_prior(_posterior(x, source), source, tolerance=1e-10, max_steps=20_000).numpy()
    likelihood = norm.pdf(x[:, None], _MEANS)

    def value(q: np.ndarray) -> float:
        return -float(np.log(likelihood @ q).mean())

    best = minimize(
        value,
        np.full(3, 1 / 3),
        bounds=[(1e-12, 1)] * 3,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert found == pytest.approx(best.x, abs=1e-4)
    assert found == pytest.approx(target, abs=0.05)


def test_mixture_stops_within_the_gap_it_was_given() -> None:
    generator = torch.Generator().manual_seed(2)
    likelihood = torch.rand(200, 5, generator=generator, dtype=torch.float64)
    exact = mixture_proportions(likelihood, tolerance=1e-9, max_steps=100_000)
    rough = mixture_proportions(likelihood, tolerance=1e-2)
    missing = (likelihood @ exact).log().mean() - (likelihood @ rough).log().mean()
    assert 0 <= missing <= 1e-2
    gradient = (likelihood / (likelihood @ exact)[:, None]).mean(0)  # Karush, Kuhn and Tucker
    assert gradient.max() <= 1 + 1e-8
    assert (gradient[exact > 1e-3] - 1).abs().max() < 1e-5
    scaled = likelihood * torch.rand(200, 1, generator=generator, dtype=torch.float64) * 1e-200
    assert torch.allclose(mixture_proportions(scaled, tolerance=1e-9, max_steps=100_000), exact, atol=1e-12)


def test_a_row_on_vanished_classes_becomes_the_prior() -> None:
    adjusted = adjust_predictions(torch.tensor([[1.0, 0.0, 0.0]]), [1, 1, 1], [0, 0.25, 0.75])
    assert adjusted.tolist() == [[0.0, 0.25, 0.75]]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="class 1 occurs in target_prior"):
        label_shift_weights([1, 0], [0.5, 0.5])
    with pytest.raises(UserError, match="2 classes and target_prior 3"):
        label_shift_weights([1, 1], [1, 1, 1])
    with pytest.raises(UserError, match="not below 0"):
        label_shift_weights([1, -1], [1, 1])
    with pytest.raises(UserError, match=r"\[n, 2\]"):
        adjust_predictions(torch.ones(2, 3), [1, 1], [1, 1])
    with pytest.raises(UserError, match="class 1"):
        em_prior(torch.ones(2, 2), [1, 0])
    with pytest.raises(UserError, match="above 0 somewhere"):
        mixture_proportions(torch.tensor([[0.0, 0.0]]))
