"""A last layer made anew: against the modules that it replaces, scikit-learn, and what must not change."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.functional.losses import post_hoc_logit_adjustment
from dlrecipes.imbalance import NearestClassMean, tau_normalise
from dlrecipes.imbalance.second_stage import (
    adjust_logits,
    learn_scales,
    nearest_mean_layer,
    normalise_lengths,
    retrain,
)

COUNTS = [400, 60, 12]
CENTRES = torch.tensor([[1.5, 0.0, 0.0, 1.0], [0.0, 1.5, 0.0, 1.0], [0.0, 0.0, 1.5, 1.0]])


def _samples(counts: list[int], seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    noise = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))
    return CENTRES[labels] + noise, labels


@pytest.fixture(scope="module")
def features() -> Tensor:
    return _samples(COUNTS, 0)[0]


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return _samples(COUNTS, 0)[1]


@pytest.fixture(scope="module")
def linear(features: Tensor, labels: Tensor) -> nn.Linear:
    """As ordinary training leaves it: the maximum of the likelihood, by other code."""
    found = LogisticRegression().fit(features.numpy(), labels.numpy())
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(found.coef_))
        layer.bias.copy_(torch.from_numpy(found.intercept_))
    return layer


def _balanced_accuracy(predict: Callable[[Tensor], Tensor]) -> float:
    x, y = _samples([2000, 2000, 2000], 1)
    hit = predict(x) == y
    return float(torch.stack([hit[y == c].float().mean() for c in range(3)]).mean())


def test_retraining_reaches_what_balanced_logistic_regression_does(
    linear: nn.Linear, features: Tensor, labels: Tensor
) -> None:
    reference = LogisticRegression(class_weight="balanced").fit(features.numpy(), labels.numpy())
    wanted = _balanced_accuracy(lambda x: torch.from_numpy(reference.predict(x.numpy())))
    found = _balanced_accuracy(lambda x: retrain(linear, features, labels)(x).argmax(1))
    before = _balanced_accuracy(lambda x: linear(x).argmax(1))
    assert before < wanted - 0.1
    assert found > wanted - 0.02


def test_other_second_stages_help_rare_classes(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    before = _balanced_accuracy(lambda x: linear(x).argmax(1))
    for layer in (
        learn_scales(linear, features, labels),
        adjust_logits(linear, COUNTS, 1.0),
        nearest_mean_layer(linear, features, labels),
    ):
        assert _balanced_accuracy(lambda x, layer=layer: layer(x).argmax(1)) > before + 0.05


def test_nothing_that_is_given_changes(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    before, x = copy.deepcopy(linear.state_dict()), features.clone()
    layers = [
        retrain(linear, features, labels, epochs=1),
        learn_scales(linear, features, labels, epochs=1),
        adjust_logits(linear, COUNTS, 1.0),
        normalise_lengths(linear, 1.0),
        nearest_mean_layer(linear, features, labels),
    ]
    for name, value in before.items():
        assert torch.equal(linear.state_dict()[name], value)
    assert all(p.requires_grad for p in linear.parameters())
    assert torch.equal(features, x)
    for layer in layers:
        assert type(layer) is nn.Linear
        assert not any(p.requires_grad for p in layer.parameters())


def test_scales_change_only_lengths(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    layer = learn_scales(linear, features, labels)
    cosine = nn.functional.cosine_similarity(layer.weight, linear.weight, dim=1)
    torch.testing.assert_close(cosine.abs(), torch.ones(3))
    assert torch.equal(layer.bias, linear.bias)
    assert not torch.allclose(layer.weight, linear.weight)


def test_training_follows_from_its_seed(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    first, again, other = (retrain(linear, features, labels, epochs=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_the_rate_fits_features_of_any_size(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    plain = retrain(linear, features, labels)
    for size in (1e-3, 1e3):
        layer = retrain(linear, size * features, labels)
        torch.testing.assert_close(layer(size * features), plain(features), atol=1e-3, rtol=1e-3)


def test_each_epoch_is_asked_for_its_features(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    asked: list[int] = []

    def of_epoch(epoch: int) -> Tensor:
        asked.append(epoch)
        return features

    layer = retrain(linear, of_epoch, labels, epochs=3)
    assert asked == [0, 1, 2]
    assert torch.equal(layer.weight, retrain(linear, features, labels, epochs=3).weight)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.7])
def test_the_bias_does_what_the_adjustment_of_logits_does(linear: nn.Linear, features: Tensor, tau: float) -> None:
    adjusted = post_hoc_logit_adjustment(linear(features), torch.tensor(COUNTS), tau=tau)
    found = adjust_logits(linear, COUNTS, tau)(features)
    torch.testing.assert_close(found.softmax(1), adjusted.softmax(1))


def test_a_class_without_a_sample_counts_as_having_one(linear: nn.Linear) -> None:
    assert torch.equal(adjust_logits(linear, [9, 5, 0], 1.0).bias, adjust_logits(linear, [9, 5, 1], 1.0).bias)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_one_factor_more_changes_no_answer(linear: nn.Linear, features: Tensor, tau: float) -> None:
    layer, plain = normalise_lengths(linear, tau), tau_normalise(copy.deepcopy(linear), tau)
    assert torch.equal(layer(features).argmax(1), plain(features).argmax(1))
    lengths = [weights.detach().norm(dim=1).log().mean() for weights in (layer.weight, linear.weight)]
    torch.testing.assert_close(*lengths)  # the geometric mean stays
    if tau == 0:
        torch.testing.assert_close(layer.weight, linear.weight)


@pytest.mark.parametrize("temperature", [0.5, 8.0])
def test_a_linear_layer_is_the_nearest_mean(
    linear: nn.Linear, features: Tensor, labels: Tensor, temperature: float
) -> None:
    ncm = NearestClassMean(4, 3, temperature=temperature)
    ncm.update(features, labels)
    layer = nearest_mean_layer(linear, features, labels, temperature=temperature)
    torch.testing.assert_close(layer(features).softmax(1), ncm(features).softmax(1), atol=1e-5, rtol=1e-4)


def test_the_nearest_mean_keeps_its_digits_far_from_zero(linear: nn.Linear, features: Tensor, labels: Tensor) -> None:
    far = features + 100.0
    distances = np.stack([((far - far[labels == c].mean(0)) ** 2).sum(1).numpy() for c in range(3)], 1)
    found = nearest_mean_layer(linear, far, labels)(far).argmax(1).numpy()
    assert (found == distances.argmin(1)).mean() > 0.995


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer, x, y: retrain(layer, x, y, epochs=0), ValueError, "epochs=0"),
        (lambda layer, x, y: retrain(layer, x, y, batch_size=0), ValueError, "batch_size=0"),
        (lambda layer, x, y: retrain(layer, x, y, rate=0.0), ValueError, "numbers above 0"),
        (lambda layer, x, y: retrain(layer, x, y[:5]), ValueError, r"labels \[5\]"),
        (lambda layer, x, y: retrain(layer, x, y.clamp(max=1)), UserError, "class 2 has no training sample"),
        (lambda layer, x, y: nearest_mean_layer(layer, x, y.clamp(max=1)), UserError, "class 2 has no training sample"),
        (lambda layer, x, y: nearest_mean_layer(layer, x, y, temperature=0.0), ValueError, r"temperature=0\.0"),
        (lambda layer, x, y: nearest_mean_layer(nn.Linear(4, 3, bias=False), x, y), ValueError, "no bias"),
        (lambda layer, x, y: adjust_logits(layer, COUNTS, -1.0), ValueError, r"tau=-1\.0"),
        (lambda layer, x, y: adjust_logits(layer, COUNTS[:2], 1.0), ValueError, "counts has 2 numbers: 3"),
        (lambda layer, x, y: adjust_logits(nn.Linear(4, 3, bias=False), COUNTS, 1.0), ValueError, "no bias"),
        (lambda layer, x, y: normalise_lengths(layer, 1.5), ValueError, r"tau=1\.5"),
    ],
)
def test_mistakes_are_named(
    linear: nn.Linear,
    features: Tensor,
    labels: Tensor,
    call: Callable[[nn.Linear, Tensor, Tensor], object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        call(linear, features, labels)
