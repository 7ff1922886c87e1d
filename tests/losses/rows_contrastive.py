"""Rows of the contrastive losses. The references walk over the anchors in plain Python."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from contracts import Row
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.losses import BalancedContrastiveLoss, SupConLoss

__all__ = ["ROWS"]

DIM = 5
CLASSES = 3
TEMPERATURE = 0.4

Array = NDArray[np.float64]


def _inputs(n: int) -> Tensor:
    return torch.randn(n, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def _views(n: int) -> Tensor:
    return torch.randn(n, 2, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def _labels(n: int) -> Tensor:
    """The third sample's label is its own, so that it has no positive among single views."""
    return torch.where(torch.arange(n) == 2, 2, torch.randint(2, (n,), generator=torch.Generator().manual_seed(8)))


def _units(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _supcon(x: Tensor, target: Tensor) -> Tensor:
    shape = x.shape[:-1]
    z = _units(x.reshape(-1, DIM).numpy())
    labels = np.repeat(target.numpy(), len(z) // max(len(target), 1))
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        total = sum(np.exp(z[i] @ z[a] / TEMPERATURE) for a in others)
        terms = [-np.log(np.exp(z[i] @ z[p] / TEMPERATURE) / total) for p in positives]
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return torch.tensor(losses, dtype=torch.float64).reshape(shape)


def _has_positive(target: Tensor) -> Tensor:
    return ((target[:, None] == target).sum(1) > 1).double()


def _balanced(x: Tensor, target: Tensor) -> Tensor:
    prototypes = _make_balanced(reduction="mean").prototypes
    assert prototypes is not None
    shape = x.shape[:-1]
    z = _units(np.concatenate([x.reshape(-1, DIM).numpy(), prototypes.detach().double().numpy()]))
    labels = np.concatenate([np.repeat(target.numpy(), np.prod(shape) // len(target)), np.arange(CLASSES)])
    losses = []
    for i in range(int(np.prod(shape))):
        members = [[a for a in range(len(z)) if a != i and labels[a] == c] for c in range(CLASSES)]
        total = sum(np.mean([np.exp(z[i] @ z[a] / TEMPERATURE) for a in of_class]) for of_class in members)
        terms = [-np.log(np.exp(z[i] @ z[p] / TEMPERATURE) / total) for p in members[labels[i]]]
        losses.append(np.mean(terms))
    return torch.tensor(np.array(losses)).reshape(shape)


_make_balanced = partial(BalancedContrastiveLoss, DIM, TEMPERATURE, num_classes=CLASSES)


def _row(name: str, make: Callable[..., torch.nn.Module], reference: Callable[..., Tensor], **options: object) -> Row:
    return Row(name=name, make=make, targets=_labels, reference=reference, of_batch=True, **options)


ROWS = [
    _row("SupConLoss", partial(SupConLoss, TEMPERATURE), _supcon, inputs=_inputs, mass=_has_positive),
    _row("SupConLoss-chunked", partial(SupConLoss, TEMPERATURE, chunk=4), _supcon, inputs=_inputs, mass=_has_positive),
    _row("SupConLoss-views", partial(SupConLoss, TEMPERATURE), _supcon, inputs=_views),
    _row("BalancedContrastiveLoss", _make_balanced, _balanced, inputs=_inputs),
    _row("BalancedContrastiveLoss-views", _make_balanced, _balanced, inputs=_views),
]
