"""Losses of numbers in little; run by `notes.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from note_runs import Arm, Experiment
from numpy.typing import NDArray
from sklearn.datasets import make_friedman1
from torch import Tensor, nn

from dlrecipes.functional.label_density import density_weights
from dlrecipes.imbalance import FeatureDistributionSmoothing
from dlrecipes.losses import (
    BalancedMSELoss,
    GAILoss,
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
from dlrecipes.losses.balanced_regression import fit_target_mixture

WIDTH, RATE, BATCH, EPOCHS = 64, 3e-3, 100, 40  # of all networks of this file
OUTLIERS = 0.1
NORMAL_80 = 1.2815515655  # 80 % of a normal distribution lie within so many standard deviations
RARE_FROM = 3.0  # 5 % of the targets of an exponential distribution are larger

Floats = NDArray[np.float64]
LossMaker = Callable[[], nn.Module]


def _body(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())


def _train(
    x: Tensor,
    y: Tensor,
    loss: nn.Module,
    seed: int,
    *,
    weights: Tensor | None = None,
    smoothing: FeatureDistributionSmoothing | None = None,
) -> Callable[[Tensor], Tensor]:
    """Two hidden layers, AdamW with a cosine; gives x [N, D] → outputs [N, k]."""
    torch.manual_seed(seed)
    body, head = _body(x.shape[1]), nn.Linear(WIDTH, getattr(loss, "outputs_per_target", 1))
    adamw = torch.optim.AdamW([*body.parameters(), *head.parameters(), *loss.parameters()], lr=RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, EPOCHS * (len(x) // BATCH))
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x)).split(BATCH):
            features = body(x[index])
            if smoothing is not None:
                features = smoothing(features, y[index])
            output = head(features)
            output = output[:, None] if output.shape[1] > 1 else output
            value = loss(output, y[index, None], None if weights is None else weights[index])
            adamw.zero_grad()
            value.backward()
            adamw.step()
            cosine.step()
        if smoothing is not None:
            smoothing.end_epoch()
    return lambda new: head(body(new)).detach()


def _scaled(values: Floats) -> Tensor:
    return torch.from_numpy(values).float()


def outliers(make_loss: LossMaker) -> Arm:
    """Friedman's function; of some training targets the decimal point has slipped."""

    def run(seed: int) -> Mapping[str, float]:
        x, y = make_friedman1(2000, noise=1.0, random_state=seed)
        inputs, test, truth = _scaled(x[:1000]), _scaled(x[1000:]), y[1000:]
        wrong = np.random.default_rng(seed).random(1000) < OUTLIERS
        given = np.where(wrong, 10 * y[:1000], y[:1000])
        median = np.median(given)
        scales = {
            "MAE": (given.mean(), given.std()),  # as RegressionTask standardises
            "MAE, scaled by median and MAD": (median, 1.4826 * np.median(np.abs(given - median))),
        }
        found = {}
        for name, (centre, spread) in scales.items():
            predict = _train(inputs, _scaled((given - centre) / spread), make_loss(), seed)
            predicted = predict(test)[:, 0].double().numpy() * spread + centre
            found[name] = float(np.abs(predicted - truth).mean())
        return found

    return run


def _bounds(loss: nn.Module, output: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Where a loss's outputs [N, k] say that 80 % lie; of one without a spread, by the training's residuals."""
    if isinstance(loss, QuantileLoss):
        return output[:, 0], output[:, -1]
    if isinstance(loss, GaussianNLLLoss):
        half = NORMAL_80 * (output[:, 1] / 2).exp()
    elif isinstance(loss, LaplaceNLLLoss):
        half = math.log(5) * output[:, 1].exp()
    else:
        half = NORMAL_80 * residuals.std()
    return output[:, 0] - half, output[:, 0] + half


def intervals(make_loss: LossMaker) -> Arm:
    """Noise that grows sixfold from left to right, normal or skewed."""

    def run(seed: int) -> Mapping[str, float]:
        rng = np.random.default_rng(seed)
        found = {}
        for kind in ("normal", "skewed"):
            x = rng.uniform(-1, 1, (6000, 1))
            noise = rng.normal(size=(6000, 1)) if kind == "normal" else rng.exponential(size=(6000, 1)) - 1
            y = _scaled((np.sin(3 * x) + (0.35 + 0.25 * x) * noise)[:, 0])
            inputs, loss = _scaled(x), make_loss()
            predict = _train(inputs[:2000], y[:2000], loss, seed)
            low, high = _bounds(loss, predict(inputs[2000:]), predict(inputs[:2000])[:, 0] - y[:2000])
            inside = ((low <= y[2000:]) & (y[2000:] <= high)).float()
            quiet, loud = inputs[2000:, 0] < -1 / 3, inputs[2000:, 0] > 1 / 3
            found[f"{kind}: all"] = float(inside.mean())
            found[f"{kind}: quiet third"], found[f"{kind}: loud third"] = (
                float(inside[part].mean()) for part in (quiet, loud)
            )
        return found

    return run


def _skewed(rng: np.random.Generator, targets: Floats) -> Tensor:
    """Eight noisy inputs that tell of a target in 0..6."""
    centres = np.linspace(0, 6, 8)
    return _scaled(np.tanh(targets[:, None] - centres) + 0.5 * rng.normal(size=(len(targets), 8)))


def rare_numbers(
    make_loss: Callable[[float, Floats], nn.Module], *, scheme: str | None = None, smooth: bool = False
) -> Arm:
    """Targets of an exponential distribution, cut off at 6; tested with such targets, and with the rare ones.

    ``make_loss`` gets the deviation of the errors that L2 makes on the training data, and the standardised targets.
    """

    def run(seed: int) -> Mapping[str, float]:
        rng = np.random.default_rng(seed)
        drawn = rng.exponential(size=20_000)
        drawn = drawn[drawn < 6]
        train, test = drawn[:2000], drawn[2000:6000]
        mean, std = train.mean(), train.std()
        given, inputs = (train - mean) / std, _skewed(rng, train)
        y = _scaled(given)
        loss = make_loss(float((_train(inputs, y, L2Loss(), seed)(inputs)[:, 0] - y).std()), given)
        smoothing = None
        if smooth:
            smoothing = FeatureDistributionSmoothing(WIDTH, target_range=(float(given.min()), float(given.max())))
        weights = None if scheme is None else density_weights(train, scheme=scheme)  # type: ignore[arg-type]
        predict = _train(inputs, y, loss, seed, weights=weights, smoothing=smoothing)
        found = {}
        for name, targets in (("all", test), ("rare", rng.uniform(RARE_FROM, 6, 2000))):
            error = predict(_skewed(rng, targets))[:, 0].double().numpy() * std + mean - targets
            found[f"MAE, {name}"] = float(np.abs(error).mean())
        return found | {"bias, rare": float(error.mean())}

    return run


def _each(makers: Mapping[str, LossMaker], arm: Callable[[LossMaker], Arm]) -> Mapping[str, Arm]:
    return {name: arm(make) for name, make in makers.items()}


_NETWORK = f"two hidden layers of {WIDTH}, AdamW {RATE:g}, {EPOCHS} epochs"
_POINT_LOSSES: Sequence[type[nn.Module]] = (L2Loss, L1Loss, HuberLoss, SmoothL1Loss, LogCoshLoss, TukeyLoss)

EXPERIMENTS: dict[str, Experiment] = {
    "outliers": Experiment(
        about=f"Friedman's function, {OUTLIERS:.0%} of 1,000 training targets ten times too large, {_NETWORK}, "
        "losses as they come; MAE on 1,000 right targets, training targets scaled by mean and deviation or robustly",
        arms=_each({loss.__name__: loss for loss in _POINT_LOSSES}, outliers),
    ),
    "intervals": Experiment(
        about=f"2,000 points, noise from .1 to .6, {_NETWORK}; share of 4,000 test points within intervals of 80 %",
        arms=_each(
            {
                "L2, one spread": L2Loss,
                "quantiles .1, .9": QuantileLoss,
                "Gaussian NLL": GaussianNLLLoss,
                "Gaussian, beta .5": lambda: GaussianNLLLoss(beta=0.5),
                "Laplace NLL": LaplaceNLLLoss,
            },
            intervals,
        ),
    ),
    "rare_numbers": Experiment(
        about=f"2,000 exponential targets below 6, eight noisy inputs, {_NETWORK}; "
        "MAE on 4,000 such, and on 2,000 evenly above 3, where 5 % of the training is, and their mean error",
        arms={
            "L2": rare_numbers(lambda *_: L2Loss()),
            "balanced MSE": rare_numbers(lambda *_: BalancedMSELoss()),
            "balanced MSE, L2's noise": rare_numbers(lambda noise, _: BalancedMSELoss(noise, learn_noise=False)),
            "GAI, L2's noise": rare_numbers(
                lambda noise, given: GAILoss(**fit_target_mixture(given), noise=noise, learn_noise=False)  # type: ignore[arg-type]
            ),
            "LDS, sqrt_inverse": rare_numbers(lambda *_: L2Loss(), scheme="sqrt_inverse"),
            "LDS, inverse": rare_numbers(lambda *_: L2Loss(), scheme="inverse"),
            "FDS": rare_numbers(lambda *_: L2Loss(), smooth=True),
        },
    ),
}
