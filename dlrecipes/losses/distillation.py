"""Losses of a student that learns from a teacher."""

from __future__ import annotations

from torch import Tensor

from dlrecipes.functional.losses.distillation import distillation_loss
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.base import ClassLoss, check_range

__all__ = ["KDLoss"]


class KDLoss(ClassLoss):
    """Softened probabilities of student and teacher, T² KL: ``dlrecipes.functional.losses.distillation_loss``.

    When: a large or well-trained teacher and a small student, or few labels. A teacher that ignores rare classes hands
    that on: train it with a remedy, or adjust its logits first (``post_hoc_logit_adjustment``).

    Args:
        temperature: T > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> KDLoss(1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.3278)
    """

    def __init__(self, temperature: float = 4.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_range("temperature", temperature, 0, open_low=True)
        self.temperature = temperature

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The student's logits [B, C, ...], the teacher's of the same shape, weights [B] → loss."""
        return distillation_loss(
            input, target, temperature=self.temperature, sample_weight=sample_weight, reduction=self.reduction
        )
