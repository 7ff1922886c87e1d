"""Losses on matched pairs of boxes as modules. Formulas: ``dlrecipes.functional.losses``.

Input and target are [N, 4], (x1, y1, x2, y2).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dlrecipes.functional.losses.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from dlrecipes.losses.base import Loss

__all__ = ["CIoULoss", "DIoULoss", "GIoULoss", "IoULoss"]


class _BoxLoss(Loss):
    kinds: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs_per_target(self) -> int:
        """Numbers that a network gives for each target: a box is four targets."""
        return 1


class IoULoss(_BoxLoss):
    """One minus the intersection over union: see ``dlrecipes.functional.losses.iou_loss``.

    Example:
        >>> import torch
        >>> IoULoss()(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1]]))
        tensor(0.5000)
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [N, 4] → loss, [N] unreduced; ``sample_weight`` [N]."""
        return iou_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)


class GIoULoss(_BoxLoss):
    """IoU loss that also pulls boxes that do not meet: see ``dlrecipes.functional.losses.giou_loss``."""

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [N, 4] → loss, [N] unreduced; ``sample_weight`` [N]."""
        return giou_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)


class DIoULoss(_BoxLoss):
    """IoU loss and the distance of the centres: see ``dlrecipes.functional.losses.diou_loss``."""

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [N, 4] → loss, [N] unreduced; ``sample_weight`` [N]."""
        return diou_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)


class CIoULoss(_BoxLoss):
    """DIoU loss and the difference of the aspect ratios: see ``dlrecipes.functional.losses.ciou_loss``."""

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Input and target [N, 4] → loss, [N] unreduced; ``sample_weight`` [N]."""
        return ciou_loss(input, target, sample_weight=sample_weight, reduction=self.reduction)
