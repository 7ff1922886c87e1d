"""What the modules share: checked arguments, and no data of a kind that they would learn nonsense from."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.links import Link
from dlrecipes.functional.losses.reduce import Reduction, check_reduction

__all__ = ["ClassLoss", "Loss", "RegressionLoss", "SigmoidLoss", "check_range", "link_of"]

# kind of data -> what it has, and losses for it
_KINDS = {
    "classification": ("one label an image", "CrossEntropyLoss, FocalLoss or BCELoss"),
    "multilabel": ("several labels an image", "BCELoss, SigmoidFocalLoss or AsymmetricLoss"),
    "regression": ("numbers to predict", "SmoothL1Loss, L2Loss or QuantileLoss"),
}

_TIMM_SIGMOID = ("BinaryCrossEntropy", "PolyBinaryCrossEntropy")  # take labels, too; timm is slow to import


def check_range(name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise ValueError, naming argument and value, unless low <= value <= high (low < value if ``open_low``)."""
    if not (low <= value <= high) or (open_low and value == low):
        border = f"above {low:g}" if open_low else f"at least {low:g}"
        raise ValueError(f"{name}={value}: {border}{'' if math.isinf(high) else f' and at most {high:g}'} is needed")


def link_of(loss: nn.Module | None) -> Link:
    """What the logits under a loss become probabilities by, where an image has one label.

    A loss says so by its ``link``, ``"softmax"``, ``"sigmoid"`` or ``"tempered:T"``; one that does not is on softmax,
    but for torch's and timm's binary cross entropy, which are known.

    Example:
        >>> link_of(nn.CrossEntropyLoss()), link_of(nn.BCEWithLogitsLoss())
        ('softmax', 'sigmoid')
    """
    of_timm = type(loss).__module__.startswith("timm.loss.") and type(loss).__name__ in _TIMM_SIGMOID
    known = isinstance(loss, nn.BCEWithLogitsLoss) or of_timm
    said = getattr(loss, "link", None)
    return said if isinstance(said, str) else "sigmoid" if known else "softmax"


class Loss(nn.Module):
    """Base of all: keeps ``reduction``, and refuses data that it is not for.

    Attributes:
        kinds: of data, as ``DataInfo.task`` names them. Detection is never refused: a criterion of boxes may be made
            of any losses.

    Raises:
        ValueError: an unknown reduction.
    """

    kinds: ClassVar[tuple[str, ...]] = ("classification", "multilabel")

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def bind(self, info: DataInfo) -> None:
        """Look at the data: shapes may fit where the loss does not, as a softmax's over several labels.

        Raises:
            UserError: data of another kind.
        """
        if info.task in self.kinds or info.task not in _KINDS:
            return
        has, others = _KINDS[info.task]
        raise UserError(
            f"{type(self).__name__} is not for this data, which has {has}: use dlrecipes.losses.{others} instead"
        )


class ClassLoss(Loss):
    """Base of the losses over exclusive classes: keeps ``label_smoothing`` and ``ignore_index``.

    Raises:
        ValueError: label_smoothing outside 0..1, an unknown reduction.
    """

    kinds: ClassVar[tuple[str, ...]] = ("classification",)

    def __init__(
        self, *, label_smoothing: float = 0.0, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        check_range("label_smoothing", label_smoothing, 0, 1)
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index


class SigmoidLoss(Loss):
    """Base of the losses of a sigmoid for each class, of one or several labels."""

    @property
    def link(self) -> Link:
        """By which a task makes probabilities of the logits."""
        return "sigmoid"


class RegressionLoss(Loss):
    """Base of the losses of numbers to predict."""

    kinds: ClassVar[tuple[str, ...]] = ("regression",)

    @property
    def outputs_per_target(self) -> int:
        """Numbers that a network gives for each target."""
        return 1
