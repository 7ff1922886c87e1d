"""Losses that ask more of rare classes than of frequent ones."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.functional.losses.margin import ldam_loss, seesaw_loss
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.balance import ClassBalance, ClassCounts, ClassWeights
from dlrecipes.losses.base import ClassLoss, check_range

__all__ = ["LDAMLoss", "SeesawLoss"]


class LDAMLoss(ClassLoss):
    """A margin for each class, the larger the rarer it is: ``dlrecipes.functional.losses.ldam_loss``.

    The network's last layer must give cosines: ``dlrecipes.imbalance.CosineLinear`` in the place of ``nn.Linear``.

    When: few classes and clean labels, with class weights brought in late in training (DRW). From the first epoch on,
    class weights spoil the features. Not together with another correction of the frequencies in the logits.

    Args:
        max_margin: margin of the rarest class, >= 0.
        scale: what the cosines are multiplied by, > 0.
        class_counts: samples of each class, above 0; None: the training set's, which ``bind`` brings.
        class_weights, effective_beta, label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = LDAMLoss(scale=10.0, class_counts=[10000.0, 16.0])  # margins 0.1 and 0.5
        >>> loss(torch.tensor([[0.6, 0.5]]), torch.tensor([0]))
        tensor(0.6931)
    """

    def __init__(
        self,
        max_margin: float = 0.5,
        scale: float = 30.0,
        *,
        class_counts: list[float] | None = None,
        class_weights: ClassWeights = None,
        effective_beta: float = 0.9999,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("max_margin", max_margin, 0)
        check_range("scale", scale, 0, open_low=True)
        self.max_margin, self.scale, self.class_counts = max_margin, scale, class_counts
        self.class_weights, self.effective_beta = class_weights, effective_beta
        self.counts = ClassCounts("LDAMLoss", "class_counts", class_counts)
        self.balance = ClassBalance("LDAMLoss", class_weights, beta=effective_beta)

    @property
    def logit_scale(self) -> float:
        """What a task multiplies the cosines by before it makes probabilities of them, as the loss does."""
        return self.scale

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs."""
        super().bind(info)
        self.counts.bind(info)
        self.balance.bind(info)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Cosines [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        return ldam_loss(
            input,
            target,
            self.counts(),
            max_margin=self.max_margin,
            scale=self.scale,
            weight=self.balance(),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )


class SeesawLoss(ClassLoss):
    """Rare classes are pushed down less, and more where they were predicted wrongly:
    ``dlrecipes.functional.losses.seesaw_loss``.

    When: hundreds of classes over several orders of magnitude (LVIS). With few classes logit adjustment does as well.
    Soft targets (mixup) and label smoothing cost memory for B × C × C numbers. Not together with a balancing sampler,
    unless ``accumulate`` counts what that shows.

    Args:
        p: mitigation, >= 0: how much rare classes are spared.
        q: compensation, >= 0: how much a wrong prediction is pushed back.
        class_counts: samples of each class, above 0; None: the training set's, which ``bind`` brings.
        accumulate: count the labels seen in training instead, on all ranks together, as the authors do. The counts
            ``seen`` are part of the state, so that a resumed run goes on with them. Soft targets add their parts.
        label_smoothing, ignore_index, reduction: as in ``CrossEntropyLoss``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = SeesawLoss(p=1.0, class_counts=[100.0, 1.0])
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.0100)
    """

    seen: Tensor | None

    def __init__(
        self,
        p: float = 0.8,
        q: float = 2.0,
        *,
        class_counts: list[float] | None = None,
        accumulate: bool = False,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
        check_range("p", p, 0)
        check_range("q", q, 0)
        self.p, self.q, self.class_counts, self.accumulate = p, q, class_counts, accumulate
        self.counts = ClassCounts("SeesawLoss", "class_counts", class_counts)
        self.balances_classes = p > 0 and not accumulate
        # float64: float32 stops counting at 2 ** 24, and soft targets are no whole numbers
        seen = torch.zeros(len(class_counts), dtype=torch.float64) if accumulate and class_counts else None
        self.register_buffer("seen", seen, persistent=accumulate)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs; start to count, unless it was begun for as many classes."""
        super().bind(info)
        self.counts.bind(info)
        if self.accumulate and (self.seen is None or len(self.seen) != info.num_classes):
            self.seen = torch.zeros(info.num_classes, dtype=torch.float64, device=self.counts().device)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [B, C, ...], labels [B, ...] or probabilities [B, C, ...], weights [B] → loss."""
        counts = self.counts()
        if self.seen is not None:
            if self.training:
                self._count(target.detach(), self.seen)
            counts = self.seen
        return seesaw_loss(
            input,
            target,
            counts,
            p=self.p,
            q=self.q,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )

    def _count(self, target: Tensor, seen: Tensor) -> None:
        """Add the labels of all ranks' batches, without waiting for the device."""
        if target.is_floating_point():
            new = target.to(seen.dtype).movedim(1, -1).reshape(-1, len(seen)).sum(0)
        else:
            known = (target != self.ignore_index).flatten()
            label = torch.where(known, target.flatten(), 0)
            new = torch.zeros_like(seen).index_add(0, label, known.to(seen.dtype))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(new)  # DDP would overwrite the counts by rank 0's
        seen.add_(new)
