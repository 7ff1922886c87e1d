"""What the losses over exclusive classes share: hard and soft targets, ignored elements, weights of classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import reduce_loss, upcast

__all__ = [
    "along_classes",
    "as_distribution",
    "average_weight",
    "class_mass",
    "per_class",
    "prepare_class_weight",
    "prepare_classes",
    "reduce_classes",
    "reduce_costs",
]

# In all of them the classes are axis 1 of the logits, [B, C, ...], as in torch.


def prepare_classes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in float32 or wider; targets as int64 labels [B, ...], or as probabilities of the logits' shape and dtype.

    Raises:
        ValueError: logits without an axis of classes, or targets that do not fit them.
    """
    if logits.dim() < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}: [batch, classes, ...] is needed")
    logits = upcast(logits)
    labels_shape = logits.shape[:1] + logits.shape[2:]
    if targets.is_floating_point():
        if targets.shape == logits.shape:
            return logits, targets.detach().to(logits.dtype)
    elif targets.shape == labels_shape:
        return logits, targets.long()
    raise ValueError(
        f"targets has shape {list(targets.shape)} and dtype {targets.dtype}: logits of shape {list(logits.shape)} need "
        f"int64 labels of shape {list(labels_shape)}, or probabilities in floating point of the logits' shape"
    )


def per_class(name: str, values: Tensor, logits: Tensor) -> Tensor:
    """Numbers of the classes, [C], with the logits' dtype and device.

    Raises:
        ValueError: not one number a class, naming the argument.
    """
    if values.shape != logits.shape[1:2]:
        raise ValueError(f"{name} has shape {list(values.shape)}: give one number a class, {list(logits.shape[1:2])}")
    return values.to(logits)


def along_classes(values: Tensor, like: Tensor) -> Tensor:
    """Numbers of the classes, [C], in a shape that multiplies or adds to [B, C, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 2))


def prepare_class_weight(weight: Tensor | None, logits: Tensor) -> Tensor | None:
    """Class weights with the logits' dtype and device.

    Raises:
        ValueError: not one weight a class.
    """
    return None if weight is None else per_class("weight", weight, logits)


def class_mass(logits: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor | None:
    """What each element counts in the mean's divisor: its class's weight, 0 if ignored; None: all the same.

    A soft target counts the average of the weights under it, so that one-hot probabilities count what their label does.
    """
    if targets.is_floating_point():
        return None if weight is None else average_weight(targets, weight)
    return _label_mass(logits, targets, weight, ignore_index)


def average_weight(targets: Tensor, weight: Tensor) -> Tensor:
    """The average of class weights [C] under probabilities [B, C, ...] → [B, ...]; no product of matrices, which
    autocast would do in half precision.
    """
    return (targets * along_classes(weight, targets)).sum(1)


def _label_mass(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    known = labels != ignore_index
    return known.to(logits.dtype) if weight is None else known * weight[torch.where(known, labels, 0)]


def as_distribution(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100
) -> Tensor:
    """Targets as probabilities of the logits' shape, smoothed; zeros where ignored."""
    known: Tensor | float = 1.0
    if not targets.is_floating_point():
        mask = (targets != ignore_index).unsqueeze(1)
        known = mask.to(logits.dtype)
        index = torch.where(mask, targets.unsqueeze(1), 0)
        targets = torch.zeros_like(logits).scatter(1, index, known)
    return targets * (1 - label_smoothing) + known * (label_smoothing / max(logits.shape[1], 1))


def reduce_classes(
    logits: Tensor,
    targets: Tensor,
    cost: Callable[[Tensor], Tensor],
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Reduce a loss that is linear in the target distribution.

    Args:
        logits, targets: as ``prepare_classes`` returns them.
        cost: the loss of an element whose true class has the given log-probability, of any shape. For a label it is
            worked out for that class alone.
        weight: as ``prepare_class_weight`` returns it.
        label_smoothing, ignore_index, sample_weight, reduction: as in ``cross_entropy``.
    """
    log_p = F.log_softmax(logits, dim=1)
    if not targets.is_floating_point() and not label_smoothing:
        index = torch.where(targets != ignore_index, targets, 0).unsqueeze(1)
        mass = _label_mass(logits, targets, weight, ignore_index)
        return reduce_loss(cost(log_p.gather(1, index).squeeze(1)) * mass, reduction, sample_weight, mass=mass)
    return reduce_costs(
        cost(log_p),
        targets,
        weight=weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
        reduction=reduction,
    )


def reduce_costs(
    costs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Reduce what each class would cost if it were the label, [B, C, ...], by the target distribution."""
    y = as_distribution(costs, targets, label_smoothing=label_smoothing, ignore_index=ignore_index)
    if weight is not None:
        y = y * along_classes(weight, costs)
    mass = class_mass(costs, targets, weight, ignore_index)
    return reduce_loss((y * costs).sum(1), reduction, sample_weight, mass=mass)
