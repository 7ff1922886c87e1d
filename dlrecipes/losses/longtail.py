"""Losses of classifiers that see some classes rarely."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.losses.longtail import logit_adjusted_cross_entropy
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.base import ClassLoss, check_range

__all__ = ["LogitAdjustedLoss"]


class LogitAdjustedLoss(ClassLoss):
    """Cross entropy that allows for the classes' frequencies (``dlrecipes.functional.losses.longtail``).

    Predict from the bare logits: they are fit for balanced classes.

    Args:
        tau: strength, >= 0.
        prior: samples or frequency of each class, above 0; None: the training set's counts, which ``bind`` brings. A
            class without a sample then counts as having one, since log 0 would make its first sample infinitely bad.
        label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> loss = LogitAdjustedLoss(prior=[90.0, 10.0])
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(2.3026)
    """

    frequency: Tensor | None

    def __init__(
        self,
        tau: float = 1.0,
        *,
        prior: list[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("tau", tau, 0)
        if prior is not None and not all(math.isfinite(p) and p > 0 for p in prior):
            raise ValueError(f"prior={prior}: finite numbers above 0 are needed")
        self.tau, self.prior = tau, prior
        frequency = None if prior is None else torch.tensor(prior, dtype=torch.float32)
        self.register_buffer("frequency", frequency, persistent=False)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs.

        Raises:
            UserError: data of another kind, or the number of given priors is not that of the classes.
        """
        super().bind(info)
        if self.prior is None:
            device = None if self.frequency is None else self.frequency.device
            counts = torch.tensor(info.class_counts, dtype=torch.float32, device=device)
            self.frequency = counts.clamp(min=1)
        elif len(self.prior) != info.num_classes:
            raise UserError(
                f"LogitAdjustedLoss has prior for {len(self.prior)} classes, but the data has {info.num_classes}: give "
                f"one number each, for {', '.join(info.classes)}"
            )

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss.

        Raises:
            UserError: neither ``prior`` nor ``bind``.
        """
        if self.frequency is None:
            raise UserError(
                "LogitAdjustedLoss must see the training data first: call loss.bind(info), as the tasks do, or give "
                "prior"
            )
        return logit_adjusted_cross_entropy(
            input,
            target,
            self.frequency,
            tau=self.tau,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
