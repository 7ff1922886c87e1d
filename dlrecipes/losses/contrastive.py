"""Contrastive losses of embeddings with labels."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.losses.contrastive import (
    balanced_contrastive_loss,
    contrastive_terms,
    supervised_contrastive_loss,
)
from dlrecipes.functional.losses.reduce import Reduction
from dlrecipes.losses.base import ClassLoss, check_range

__all__ = ["BalancedContrastiveLoss", "SupConLoss"]


class SupConLoss(ClassLoss):
    """Embeddings of a label attract each other: ``dlrecipes.functional.losses.supervised_contrastive_loss``.

    When: pretraining, or a second branch beside a classifier, with large batches and two views of each image. Rare
    classes find few positives in a batch and are repelled by the frequent ones: ``BalancedContrastiveLoss``, or
    ``MPerClassSampler``, helps. It trains no classifier.
    As a second branch in small batches of one view it does harm at weight 1 (``python benchmarks/notes.py
    metric_learning``): lower ``auxiliary_weight`` there.

    Args:
        temperature: T > 0.
        gather: compare with the embeddings of all ranks. The average of the ranks' gradients is then that of the whole
            batch on one; without it each rank compares within its own part. The ranks' batches must be equally large.
        chunk: anchors at a time, to save memory; None: all at once.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. The mean is over anchors that have a positive.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> SupConLoss(1.0)(x, torch.tensor([0, 0, 1]))
        tensor(0.3133)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        gather: bool = False,
        chunk: int | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_range("temperature", temperature, 0, open_low=True)
        if chunk is not None:
            check_range("chunk", chunk, 1)
        self.temperature, self.gather, self.chunk = temperature, gather, chunk

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Embeddings [B, D] or [B, V, D], labels [B], weights [B] → loss, [B] or [B, V] unreduced."""
        if self.gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return self._over_ranks(input, target, sample_weight)
        return supervised_contrastive_loss(
            input,
            target,
            temperature=self.temperature,
            chunk=self.chunk,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )

    def _over_ranks(self, input: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        from torch.distributed.nn.functional import all_gather  # not in every build of torch

        views = input.shape[1] if input.dim() == 3 else 1
        rows = input.flatten(0, -2)
        keys = torch.cat(all_gather(rows.contiguous()))  # its backward adds the ranks'
        own = target.repeat_interleave(views).contiguous()
        labels = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(labels, own)
        loss, mass, weight = contrastive_terms(
            input,
            target,
            temperature=self.temperature,
            keys=keys,
            key_targets=torch.cat(labels),
            first_key=dist.get_rank() * len(rows),
            chunk=self.chunk,
            sample_weight=sample_weight,
        )
        if weight is not None:
            loss, mass = loss * weight.to(loss), mass * weight.to(mass)
        if self.reduction == "none":
            return loss.reshape(input.shape[:-1])
        if self.reduction == "sum":
            return loss.sum()
        # the average over the ranks must divide by the anchors of all
        divisor = mass.sum()
        dist.all_reduce(divisor)
        return loss.sum() / torch.where(divisor == 0, 1, divisor / dist.get_world_size())


class BalancedContrastiveLoss(ClassLoss):
    """Each class counts once, and has a learned prototype: ``dlrecipes.functional.losses.balanced_contrastive_loss``.

    When: the branch beside a classifier where classes are rare (the authors add it to a logit-adjusted loss, with two
    strongly augmented views). It trains no classifier; the prototypes can be one (``dlrecipes.functional.prototypes``).

    Args:
        dim: of the embeddings.
        temperature: T > 0.
        num_classes: None: as many as the training set has, which ``bind`` brings.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Attributes:
        prototypes: float [C, dim], trained along by the task's optimizer. They start from the same random directions in
            every run.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = BalancedContrastiveLoss(dim=2, temperature=1.0, num_classes=2)
        >>> _ = loss.prototypes.data.copy_(torch.eye(2))
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.3133)
    """

    prototypes: nn.Parameter | None

    def __init__(
        self,
        dim: int = 128,
        temperature: float = 0.1,
        *,
        num_classes: int | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_range("dim", dim, 1)
        check_range("temperature", temperature, 0, open_low=True)
        self.dim, self.temperature, self.num_classes = dim, temperature, num_classes
        self.register_parameter("prototypes", None if num_classes is None else self._start(num_classes))

    def _start(self, num_classes: int) -> nn.Parameter:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(num_classes, self.dim, generator=generator, device="cpu")  # whatever the default is
        return nn.Parameter(nn.functional.normalize(directions))

    def bind(self, info: DataInfo) -> None:
        """Make a prototype for each class, unless there are as many already.

        Raises:
            UserError: data of another kind, or another number of classes than ``num_classes``.
        """
        super().bind(info)
        if self.num_classes is not None and self.num_classes != info.num_classes:
            raise UserError(
                f"BalancedContrastiveLoss has num_classes={self.num_classes}, but the data has {info.num_classes}: "
                "leave it out"
            )
        if self.prototypes is None or len(self.prototypes) != info.num_classes:
            self.prototypes = self._start(info.num_classes)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Embeddings [B, D] or [B, V, D], labels [B], weights [B] → loss, [B] or [B, V] unreduced.

        Raises:
            UserError: neither ``num_classes`` nor ``bind``.
        """
        if self.prototypes is None:
            raise UserError(
                "BalancedContrastiveLoss must see the training data first: call loss.bind(info), as the tasks do, or "
                "give num_classes"
            )
        return balanced_contrastive_loss(
            input,
            target,
            self.prototypes,
            temperature=self.temperature,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
