"""Classes by their prototypes: means of features, and how near a sample is to each."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import upcast

__all__ = ["PrototypeMetric", "class_means", "prototype_logits"]

PrototypeMetric = Literal["euclidean", "cosine"]


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean of the features of each class, and how many there are.

    Args:
        features: float [N, D]; computed in float32 or wider.
        labels: int64 [N] in 0..C - 1.
        num_classes: C.

    Returns:
        [C, D], zeros for a class without samples, and int64 [C].

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> means, counts = class_means(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 0, 2]), 3)
        >>> means.tolist(), counts.tolist()
        ([[2.0], [0.0], [7.0]], [2, 0, 1])
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels has shape {list(labels.shape)} and features {list(features.shape)}: [N] and [N, D] are needed"
        )
    features = upcast(features)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=features.device)
    counts = counts.index_add(0, labels, torch.ones_like(labels))
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    return sums / counts.clamp(min=1).to(sums.dtype)[:, None], counts


def prototype_logits(
    features: Tensor, prototypes: Tensor, *, metric: PrototypeMetric = "euclidean", temperature: float = 1.0
) -> Tensor:
    r"""Scores of a nearest-prototype classifier.

    .. math:: \text{euclidean: } -\|x - μ_c\|^2 / T \qquad \text{cosine: } \cos(x, μ_c) / T

    Args:
        features: float [B, D]; computed in float32 or wider.
        prototypes: float [C, D], μ.
        metric: ``"euclidean"`` or ``"cosine"``.
        temperature: T > 0.

    Returns:
        [B, C].

    Raises:
        ValueError: an unknown metric, T not above 0, shapes that do not fit.

    Example:
        >>> prototype_logits(torch.tensor([[1.0, 0.0]]), torch.eye(2))
        tensor([[-0., -2.]])
    """
    if metric not in get_args(PrototypeMetric):
        raise ValueError(f"metric is {metric!r}: use {', '.join(map(repr, get_args(PrototypeMetric)))}")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: use a number above 0")
    if features.dim() != 2 or prototypes.dim() != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"prototypes has shape {list(prototypes.shape)} and features {list(features.shape)}: [C, D] and [B, D] are "
            f"needed"
        )
    features = upcast(features)
    prototypes = prototypes.to(features.dtype)
    with torch.autocast(features.device.type, enabled=False):
        if metric == "cosine":
            return F.normalize(features, dim=-1) @ F.normalize(prototypes, dim=-1).T / temperature
        # |x|² - 2 x·μ + |μ|² would cancel where the features lie far from 0
        shift = prototypes.mean(0)
        x, means = features - shift, prototypes - shift
        squares = x.square().sum(-1, keepdim=True) - 2 * x @ means.T + means.square().sum(-1)
        return -squares.clamp(min=0) / temperature
