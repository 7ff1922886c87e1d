"""What the modules share: checked arguments, and no softmax where an image has several labels."""

from __future__ import annotations

import math

from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.losses.reduce import Reduction, check_reduction

__all__ = ["ClassLoss", "Loss", "check_range"]


def check_range(name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise ValueError, naming argument and value, unless low <= value <= high (low < value if ``open_low``)."""
    if not (low <= value <= high) or (open_low and value == low):
        border = f"above {low:g}" if open_low else f"at least {low:g}"
        raise ValueError(f"{name}={value}: {border}{'' if math.isinf(high) else f' and at most {high:g}'} is needed")


class Loss(nn.Module):
    """Base of all: keeps ``reduction``.

    Raises:
        ValueError: an unknown reduction.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction


class ClassLoss(Loss):
    """Base of the losses over exclusive classes: keeps ``label_smoothing`` and ``ignore_index``.

    Raises:
        ValueError: label_smoothing outside 0..1, an unknown reduction.
    """

    def __init__(
        self, *, label_smoothing: float = 0.0, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        check_range("label_smoothing", label_smoothing, 0, 1)
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def bind(self, info: DataInfo) -> None:
        """Look at the data: a softmax would let an image's several labels compete without a word.

        Raises:
            UserError: data with several labels an image.
        """
        if info.task == "multilabel":
            raise UserError(
                f"{type(self).__name__} is for one label an image, and this data has several: use "
                "dlrecipes.losses.BCELoss, SigmoidFocalLoss or AsymmetricLoss"
            )
