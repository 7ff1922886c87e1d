"""Label shift: classes occur with other frequencies than in training, and look the same. What to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.errors import UserError

__all__ = ["adjust_predictions", "em_prior", "label_shift_weights", "mixture_proportions"]

Prior = Tensor | Sequence[float] | NDArray[Any]


def label_shift_weights(source_prior: Prior, target_prior: Prior) -> Tensor:
    r"""Importance weight of each class, for training or for corrected averages over old data.

    .. math:: w_c = q_c / p_c

    ``weights[labels]`` are sample weights with mean 1 over the old data, if p are its own frequencies.

    Args:
        source_prior: p, shares or counts of the classes in training, [C].
        target_prior: q, of the new data: known, or estimated without labels by BBSE or ``em_prior``.

    Returns:
        float64 [C].

    Raises:
        UserError: negative numbers, another number of classes, or a class of the new data that training has not seen.

    Example:
        >>> label_shift_weights([50, 50], [0.9, 0.1])
        tensor([1.8000, 0.2000], dtype=torch.float64)
    """
    source, target = _shares(source_prior, "source_prior"), _shares(target_prior, "target_prior")
    if len(source) != len(target):
        raise UserError(
            f"source_prior has {len(source)} classes and target_prior {len(target)}: give both in one order"
        )
    unseen = ((source == 0) & (target > 0)).nonzero().flatten().tolist()
    if unseen:
        raise UserError(
            f"class {unseen[0]} occurs in target_prior and not in source_prior: no weight can make up for it"
        )
    return torch.where(source > 0, target / source.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def adjust_predictions(probabilities: Tensor, source_prior: Prior, target_prior: Prior) -> Tensor:
    r"""What a classifier that was trained on one mix of classes says on another (Saerens et al., 2002,
    doi:10.1162/089976602753284446).

    .. math:: q(c \mid x) = \frac{p(c \mid x)\, q_c / p_c}{\sum_k p(k \mid x)\, q_k / p_k}

    The best there is if only the frequencies have moved and p(c | x) is calibrated. Not after training with a balancing
    sampler or loss, unless ``source_prior`` is what those made of the frequencies.

    Args:
        probabilities: float [n, C], rows sum to 1.
        source_prior, target_prior: shares or counts of the classes, [C].

    Returns:
        As ``probabilities``. A row that is on classes alone that do not occur any more becomes ``target_prior``.

    Raises:
        UserError: as in ``label_shift_weights``, or another number of classes.

    Example:
        >>> adjust_predictions(torch.tensor([[0.6, 0.4]]), [0.5, 0.5], [0.2, 0.8])
        tensor([[0.2727, 0.7273]])
    """
    weights = label_shift_weights(source_prior, target_prior).to(probabilities.device)
    _check_probabilities(probabilities, len(weights))
    joint = probabilities.double() * weights
    total = joint.sum(1, keepdim=True)
    known = _shares(target_prior, "target_prior").to(joint)
    return torch.where(total > 0, joint / total.clamp(min=torch.finfo(torch.float64).tiny), known).to(probabilities)


def em_prior(probabilities: Tensor, source_prior: Prior, *, tolerance: float = 1e-6, max_steps: int = 10_000) -> Tensor:
    r"""Frequencies of the classes in new data without labels, by maximum likelihood (Saerens et al., 2002).

    .. math:: \hat q = \arg\max_q \frac1n \sum_i \log \sum_c \frac{q_c}{p_c}\, p(c \mid x_i)

    Uses the whole of each probability where BBSE uses the predicted class, and so needs fewer images and calibrated
    probabilities: a network that is too sure of itself must be calibrated first (Alexandari et al., 2020,
    arXiv:1901.06852).

    Args:
        probabilities: float [n, C] of the new data.
        source_prior: shares or counts of the classes in training, all above 0.
        tolerance, max_steps: as in ``mixture_proportions``.

    Returns:
        float64 [C], sums to 1.

    Raises:
        UserError: a class without training samples, or another number of classes.

    Example:
        >>> em_prior(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]), [0.5, 0.5])
        tensor([0.7083, 0.2917], dtype=torch.float64)
    """
    source = _shares(source_prior, "source_prior").to(probabilities.device)
    _check_probabilities(probabilities, len(source))
    if not (source > 0).all():
        raise UserError(f"source_prior is 0 for class {int(source.argmin())}: leave classes out that training has not")
    return mixture_proportions(probabilities.double() / source, tolerance=tolerance, max_steps=max_steps)


def mixture_proportions(likelihood: Tensor, *, tolerance: float = 1e-6, max_steps: int = 10_000) -> Tensor:
    r"""Shares of known components that make samples likeliest: a concave problem, solved by EM.

    .. math:: \max_π \; \frac1n \sum_i \log \sum_k π_k L_{ik}, \qquad π_k \ge 0, \; \sum_k π_k = 1

    With g the gradient, EM's step is π ← π · g, which never lowers the value, and max g − 1 bounds how far the value is
    below the maximum (the Frank-Wolfe gap): that is when it stops.

    Args:
        likelihood: L, float [n, K], not below 0; of each sample under each component, up to a factor for each sample.
        tolerance: bound on what is missing to the maximum, in nats.
        max_steps: at most.

    Returns:
        float64 [K].

    Raises:
        UserError: a likelihood that is negative or not finite, or a sample that no component can have made.

    Example:
        >>> mixture_proportions(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    if likelihood.ndim != 2 or 0 in likelihood.shape:
        raise UserError(f"likelihood must be [n, K], got {list(likelihood.shape)}")
    each = likelihood.double()
    largest = each.amax(1, keepdim=True)
    if not (torch.isfinite(each).all() and (each >= 0).all() and (largest > 0).all()):
        raise UserError("likelihood must be finite and not negative, and above 0 somewhere in each row")
    each = each / largest
    share = each.new_full((each.shape[1],), 1 / each.shape[1])
    for _ in range(max_steps):
        gradient = (each / (each @ share)[:, None]).mean(0)
        if gradient.max() - 1 <= tolerance:
            break
        share = share * gradient
    return share / share.sum()


def _shares(prior: Prior, name: str) -> Tensor:
    """float64 [C] on the CPU, sum 1."""
    values = torch.as_tensor(prior).detach().to("cpu", torch.float64)
    if values.ndim != 1 or not (torch.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise UserError(f"{name} must be the classes' shares or counts, not below 0, got {values.tolist()}")
    return values / values.sum()


def _check_probabilities(probabilities: Tensor, classes: int) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise UserError(
            f"probabilities must be [n, {classes}], as many classes as priors, got {list(probabilities.shape)}"
        )
