"""Losses of classifiers whose labels are partly wrong."""

from __future__ import annotations

from torch import Tensor

from dlrecipes.functional.links import Link, tempered_link
from dlrecipes.functional.losses.noisy import bi_tempered_loss, generalized_cross_entropy, symmetric_cross_entropy
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.base import ClassLoss, check_range

__all__ = ["BiTemperedLoss", "GeneralizedCrossEntropyLoss", "SymmetricCrossEntropyLoss"]


class GeneralizedCrossEntropyLoss(ClassLoss):
    """(1 − p^q) / q: ``dlrecipes.functional.losses.generalized_cross_entropy``.

    Args:
        q: in (0, 1]; small: nearly cross entropy; 1: absolute error.
        ignore_index: label of elements that are left out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> GeneralizedCrossEntropyLoss(q=0.5)(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.5858)
    """

    def __init__(self, q: float = 0.7, *, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        check_range("q", q, 0, 1, open_low=True)
        self.q = q

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return generalized_cross_entropy(
            input,
            target,
            q=self.q,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class SymmetricCrossEntropyLoss(ClassLoss):
    """Cross entropy both ways: ``dlrecipes.functional.losses.symmetric_cross_entropy``.

    Args:
        alpha: weight of cross entropy, >= 0.
        beta: weight of the reverse term, >= 0.
        log_zero: what log 0 is taken as, below 0.
        ignore_index: label of elements that are left out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> SymmetricCrossEntropyLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(2.0693)
    """

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = -4.0,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        check_range("alpha", alpha, 0)
        check_range("beta", beta, 0)
        if not log_zero < 0:
            raise ValueError(f"log_zero={log_zero}: below 0 is needed")
        self.alpha, self.beta, self.log_zero = alpha, beta, log_zero

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return symmetric_cross_entropy(
            input,
            target,
            alpha=self.alpha,
            beta=self.beta,
            log_zero=self.log_zero,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class BiTemperedLoss(ClassLoss):
    """Bounded loss of a heavy-tailed softmax: ``dlrecipes.functional.losses.bi_tempered_loss``.

    The network answers by that softmax, too: a task asks the loss for its ``link``.

    Args:
        t1: in 0..1; lower: more tightly bounded.
        t2: in 1..4; higher: heavier tails.
        label_smoothing: in 0..1.
        ignore_index: label of elements that are left out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> BiTemperedLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.5394)
    """

    def __init__(
        self,
        t1: float = 0.8,
        t2: float = 1.2,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("t1", t1, 0, 1)
        check_range("t2", t2, 1, 4)
        self.t1, self.t2 = t1, t2

    @property
    def link(self) -> Link:
        """By which a task makes probabilities of the logits: the softmax of temperature ``t2``."""
        return tempered_link(self.t2)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return bi_tempered_loss(
            input,
            target,
            t1=self.t1,
            t2=self.t2,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
