"""The last layer made anew from the features of a trained network: decoupling, as pure tensor maths.

Every function takes the trained ``nn.Linear`` or the features and labels that it was trained on, leaves both as they
are, and gives an ordinary ``nn.Linear`` to put in its place. Features are what the last layer gets, [N, D], in the
network's evaluation mode: its body is frozen, batch norms included (Kang et al., 2020, arXiv:1910.09217).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.functional.prototypes import class_means
from dlrecipes.imbalance.decoupling import LearnableWeightScaling, reinit_classifier, tau_normalise
from dlrecipes.imbalance.samplers.balanced import BalancedDistributedSampler

__all__ = ["FeatureSource", "adjust_logits", "learn_scales", "nearest_mean_layer", "normalise_lengths", "retrain"]

FeatureSource = Tensor | Callable[[int], Tensor]
"""Features float32 [N, D], or those of an epoch: of images that were augmented anew, in the same order."""

_RATE = 2.0  # of inputs of mean square 1: the likeliest on the validation split of the embedded digits, as is 4
_MOMENTUM = 0.9  # Kang et al., section 5.1
_BATCH, _STEPS = 512, 20  # theirs; fewer where an epoch would have fewer than so many steps


def retrain(
    linear: nn.Linear,
    features: FeatureSource,
    labels: Tensor,
    *,
    epochs: int = 10,
    rate: float = _RATE,
    batch_size: int | None = None,
    seed: int = 0,
) -> nn.Linear:
    """cRT: a new last layer, trained by cross entropy on samples of which each class has equally many.

    SGD with momentum .9 and a cosine schedule, on features divided by their root mean square length, which is then
    taken into the weights: one learning rate fits networks whose features differ in size. Few epochs, not weight decay,
    keep the weights short.

    Args:
        linear: the trained layer, for its shape.
        features: float [N, D], or of each epoch.
        labels: int64 [N].
        epochs: passes over as many samples as there are.
        rate: learning rate, above 0.
        batch_size: None: 512, or fewer so that an epoch has 20 steps.
        seed: of weights and order.

    Returns:
        The new layer.

    Raises:
        ValueError: an argument outside its range, shapes that do not fit.
        UserError: a class without a sample.

    Example:
        >>> x = torch.cat([torch.randn(200, 2) + 3, torch.randn(5, 2) - 3])
        >>> y = torch.tensor([0] * 200 + [1] * 5)
        >>> layer = retrain(nn.Linear(2, 2), x, y)
        >>> layer(torch.tensor([[3.0, 3.0], [-3.0, -3.0]])).argmax(1)
        tensor([0, 1])
    """
    layer = reinit_classifier(copy.deepcopy(linear), seed=seed)
    of_epoch = _each_once(features)
    length = _positive(of_epoch(0).square().sum(1).mean().sqrt())
    _train(layer, _each_once(lambda epoch: of_epoch(epoch) / length), labels, epochs, rate, batch_size, seed)
    layer.requires_grad_(False).weight.div_(length)
    return layer


def learn_scales(
    linear: nn.Linear,
    features: FeatureSource,
    labels: Tensor,
    *,
    epochs: int = 10,
    rate: float = _RATE,
    batch_size: int | None = None,
    seed: int = 0,
) -> nn.Linear:
    """LWS: one factor for each class's weights, trained as `retrain` trains all of them, then multiplied in.

    Arguments, errors: see `retrain`; the rate is for factors of scores of mean square 1.
    """
    layer = LearnableWeightScaling(copy.deepcopy(linear))
    of_epoch = _each_once(features)
    scores = F.linear(of_epoch(0), linear.weight.detach())
    rate /= _positive(scores.square().mean())
    _train(layer, of_epoch, labels, epochs, rate, batch_size, seed)
    return layer.merge().requires_grad_(False)


def normalise_lengths(linear: nn.Linear, tau: float) -> nn.Linear:
    r"""τ-normalisation (`tau_normalise`) that leaves the probabilities about as sharp as they were.

    .. math:: \tilde w_c = w_c\, \frac{g^τ}{\|w_c\|^τ}

    with g the geometric mean of the lengths. The common factor changes no answer, since there is no bias then; without
    it probabilities, and every likelihood, would depend on how long weights happen to be.

    Args:
        linear: the trained layer.
        tau: τ in 0..1.

    Raises:
        ValueError: τ outside 0..1.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[4.0, 0.0], [0.0, 0.25]]))
        >>> normalise_lengths(layer, 1.0).weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    lengths = linear.weight.detach().norm(dim=1)
    layer = tau_normalise(copy.deepcopy(linear).requires_grad_(False), tau)
    if (lengths > 0).any():
        layer.weight.mul_(lengths[lengths > 0].log().mean().mul(tau).exp())
    return layer


def adjust_logits(linear: nn.Linear, counts: Sequence[int] | Tensor, tau: float) -> nn.Linear:
    r"""Post-hoc logit adjustment (Menon et al., 2021, arXiv:2007.07314, eq. 9) as a change of the bias.

    .. math:: \tilde b_c = b_c - τ \log π_c

    It equals ``dlrecipes.functional.losses.post_hoc_logit_adjustment`` of the layer's logits.

    Args:
        linear: the trained layer, with a bias.
        counts: [C], training samples of each class; a class without one counts as having one.
        tau: τ >= 0.

    Raises:
        ValueError: τ below 0, another number of counts, a layer without a bias.

    Example:
        >>> layer = nn.Linear(1, 2)
        >>> _ = layer.bias.data.zero_()
        >>> adjust_logits(layer, [90, 10], 1.0).bias.softmax(0)
        tensor([0.1000, 0.9000])
    """
    if tau < 0:
        raise ValueError(f"tau={tau}: 0 or more is needed")
    if len(counts) != linear.out_features:
        raise ValueError(f"counts has {len(counts)} numbers: {linear.out_features} are needed, one a class")
    layer = copy.deepcopy(linear).requires_grad_(False)
    if layer.bias is None:
        raise ValueError("linear has no bias, which logit adjustment changes")
    prior = torch.as_tensor(counts, dtype=torch.float64, device=layer.bias.device).clamp(min=1)
    layer.bias.sub_(tau * (prior / prior.sum()).log().to(layer.bias.dtype))
    return layer


def nearest_mean_layer(linear: nn.Linear, features: Tensor, labels: Tensor, *, temperature: float = 1.0) -> nn.Linear:
    r"""Nearest class mean as a linear layer: the squared distance to a mean is linear in the features, up to what all
    classes share.

    .. math:: -\frac{\|x - μ_c\|^2}{T} = \frac{2 μ_c \cdot x - \|μ_c\|^2}{T} - \frac{\|x\|^2}{T}

    The distance is Euclidean: the cosine of Kang et al. needs features of unit length, which no linear layer gives.

    Args:
        linear: the trained layer, for its shape; with a bias.
        features: float [N, D].
        labels: int64 [N].
        temperature: T > 0; it changes the probabilities and no answer.

    Returns:
        The layer, whose probabilities are those of ``NearestClassMean(temperature=T)``.

    Raises:
        ValueError: T not above 0, shapes that do not fit, a layer without a bias.
        UserError: a class without a sample.

    Example:
        >>> layer = nearest_mean_layer(nn.Linear(1, 2), torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> layer(torch.tensor([[3.0], [7.0]])).argmax(1)
        tensor([0, 1])
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: above 0 is needed")
    layer = copy.deepcopy(linear).requires_grad_(False)
    if layer.bias is None:
        raise ValueError("linear has no bias, which nearest class mean needs")
    means, counts = class_means(features.double(), labels, layer.out_features)
    _check_all_there(counts)
    centre = means.mean(0)  # taken from all classes alike, which keeps digits where features lie far from 0
    layer.weight.copy_(2 * (means - centre) / temperature)
    layer.bias.copy_((centre.square().sum() - means.square().sum(1)) / temperature)
    return layer


def _train(
    layer: nn.Linear | LearnableWeightScaling,
    features: Callable[[int], Tensor],
    labels: Tensor,
    epochs: int,
    lr: float,
    batch_size: int | None,
    seed: int,
) -> None:
    """Class-balanced SGD on what of ``layer`` has gradients, in place."""
    if epochs < 1 or not lr > 0 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"epochs={epochs}, rate and batch_size={batch_size}: numbers above 0 are needed")
    first = features(0)
    if first.dim() != 2 or labels.shape != first.shape[:1]:
        raise ValueError(f"features has shape {list(first.shape)} and labels {list(labels.shape)}: [N, D] and [N]")
    classes = (layer.linear if isinstance(layer, LearnableWeightScaling) else layer).out_features
    _check_all_there(torch.bincount(labels, minlength=classes))
    size = batch_size or max(1, min(_BATCH, len(labels) // _STEPS))
    sampler = BalancedDistributedSampler(labels.cpu(), "class", num_classes=classes, seed=seed, rank=0, world_size=1)
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=_MOMENTUM)
    steps = epochs * math.ceil(len(labels) / size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        x = features(epoch)
        sampler.set_epoch(epoch)
        for index in torch.split(torch.tensor(list(sampler), device=x.device), size):
            optimizer.zero_grad()
            F.cross_entropy(layer(x[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()


def _each_once(features: FeatureSource) -> Callable[[int], Tensor]:
    """An epoch's features are asked for several times, and may cost a pass through the network."""
    if isinstance(features, Tensor):
        known = features.detach()
        return lambda epoch: known
    return lru_cache(maxsize=1)(features)


def _positive(value: Tensor) -> float:
    return max(float(value), torch.finfo(torch.float32).tiny)


def _check_all_there(counts: Tensor) -> None:
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        raise UserError(
            f"class {missing[0]} has no training sample, and its weights would follow from nothing: choose tau or "
            f"logit-adjust, or add images of it"
        )
