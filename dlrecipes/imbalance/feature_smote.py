"""SMOTE in a network's feature space, while it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError

__all__ = ["FeatureSMOTE"]


class FeatureSMOTE(nn.Module):
    r"""Between a network's body and its head: adds synthetic features of rare classes to each training batch.

    .. math:: f = f_i + u \, (f_j - f_i), \quad u \sim U(0, 1)

    i is of the batch or of the class's queue, which keeps its last features; j is one of i's k nearest in the queue
    (SMOTE, Chawla et al., 2002, arXiv:1106.1813, in feature space, as DeVries and Taylor, 2017, arXiv:1702.05538). The
    classes of the synthetic features are drawn by how many samples they lack of the largest class, so that SMOTE's
    "auto" is approached as ``ratio`` grows. A class joins as soon as its queue holds two features; until any does,
    the added rows repeat rows of the batch. The gradient reaches the body through rows of the batch only.

    Pass the loss the returned features' logits and labels. In evaluation nothing is added. Random numbers are the
    device's own; nothing waits for the device, and shapes do not depend on the data.
    Under DDP the queues are those of the first rank, which DDP copies to the others before each step.

    When to use it: a body that is trained already, or in the last part of training, when features have settled. When
    it hurts: early, as the queue is of features that have moved since; with class weights or a balanced sampler, which
    balance once more. Mixed labels (mixup, CutMix) it refuses.

    Args:
        dim: length of a feature vector.
        class_counts: training samples of each class; None: ``bind`` brings them.
        ratio: synthetic features for each one of the batch.
        rare: classes with fewer samples than this share of the largest class are added to; 1: all but the largest.
        k_neighbors: k; with fewer in the queue, all of them.
        queue: features that are kept of each rare class, in float32: a checkpoint grows by classes · queue · dim · 4
            bytes.

    Shape:
        features [B, dim] of any floating dtype, labels int64 [B] → [B + round(ratio · B), dim], int64 [B + …].

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> smote = FeatureSMOTE(2, class_counts=[90, 10], ratio=0.5)
        >>> features = torch.tensor([[0.0, 0.0], [4.0, 4.0], [5.0, 5.0], [6.0, 6.0]])
        >>> labels = torch.tensor([0, 1, 1, 1])
        >>> more, their_labels = smote(features, labels)  # fills the queue
        >>> more, their_labels = smote(features, labels)
        >>> their_labels.tolist(), bool((more[4:] >= 4).all())
        ([0, 1, 1, 1, 1, 1], True)
    """

    bank: Tensor  # [rare classes · queue + 1, dim]: a ring a class, and a row for what is not kept
    pushed: Tensor  # [rare classes], features seen so far
    slot_of_class: Tensor
    class_of_slot: Tensor
    lack: Tensor  # [rare classes], samples short of the largest class

    def __init__(
        self,
        dim: int,
        *,
        class_counts: Sequence[int] | None = None,
        ratio: float = 0.5,
        rare: float = 1.0,
        k_neighbors: int = 5,
        queue: int = 32,
    ) -> None:
        super().__init__()
        for name, value, least in (("dim", dim, 1), ("k_neighbors", k_neighbors, 1), ("queue", queue, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: a whole number of at least {least} is needed")
        if not (0 < ratio < math.inf):
            raise ValueError(f"ratio={ratio}: a finite number above 0 is needed")
        if not (0 < rare <= 1):
            raise ValueError(f"rare={rare}: a share above 0 and at most 1 is needed")
        self.dim, self.ratio, self.rare, self.k_neighbors, self.queue = dim, ratio, rare, k_neighbors, queue
        self.class_counts = None if class_counts is None else list(class_counts)
        self._allocate(self.class_counts or [])

    def _allocate(self, counts: Sequence[int]) -> None:
        """An empty queue for each rare class."""
        device = self.bank.device if "bank" in self._buffers else None
        largest = max(counts, default=0)
        rare = [c for c, n in enumerate(counts) if n < self.rare * largest]
        slot_of_class = torch.full((len(counts),), len(rare), dtype=torch.int64)  # what is not rare goes to the last
        slot_of_class[rare] = torch.arange(len(rare))
        self.register_buffer("bank", torch.zeros(len(rare) * self.queue + 1, self.dim, device=device))
        self.register_buffer("pushed", torch.zeros(len(rare), dtype=torch.int64, device=device))
        self.register_buffer("slot_of_class", slot_of_class.to(device), persistent=False)
        self.register_buffer("class_of_slot", torch.tensor(rare, dtype=torch.int64, device=device), persistent=False)
        lack = torch.tensor([largest - counts[c] for c in rare], dtype=torch.float32, device=device)
        self.register_buffer("lack", lack, persistent=False)

    def bind(self, info: DataInfo) -> None:
        """Learn how often each class occurs; the queues are emptied.

        Raises:
            UserError: data other than one label a sample, or ``class_counts`` of another number of classes.
        """
        if info.task != "classification":
            raise UserError(
                f"FeatureSMOTE needs one label a sample, and this is {info.task}: use RepeatFactorSampler or weights"
            )
        if self.class_counts is not None and len(self.class_counts) != info.num_classes:
            raise UserError(
                f"FeatureSMOTE has class_counts of {len(self.class_counts)} classes, but the data has "
                f"{info.num_classes}: leave class_counts out"
            )
        self._allocate(self.class_counts or info.class_counts)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features and labels, in training with synthetic ones behind them.

        Raises:
            UserError: pixels or features of another length, labels that are no classes, no class counts yet.
        """
        self._check(features, labels)
        if not self.training or not len(self.lack) or not len(features):
            return features, labels
        number = round(self.ratio * len(features))
        with torch.autocast(features.device.type, enabled=False):
            made, classes = self._synthesise(features, labels, number)
            self._push(features.detach(), labels)
            return torch.cat((features, made)), torch.cat((labels, classes))

    def _check(self, features: Tensor, labels: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.dim:
            why = (
                ": between pixels it lays two pictures over one another, which are ghosts" if features.ndim > 2 else ""
            )
            raise UserError(
                f"FeatureSMOTE(dim={self.dim}) was given {list(features.shape)}{why}; pass a network's pooled features "
                f"[B, {self.dim}], the input of its last layer"
            )
        if labels.shape != features.shape[:1] or labels.is_floating_point():
            raise UserError(
                f"FeatureSMOTE was given labels of shape {list(labels.shape)} and dtype {labels.dtype} with "
                f"{len(features)} features: it needs one class (int64) a sample, so use it without mixup and CutMix"
            )
        if not len(self.slot_of_class):
            raise UserError("FeatureSMOTE must see the training data first: call bind(info), or give class_counts")

    def _draw_class(self, number: int) -> Tensor:
        """Slots by what their class lacks, among those that hold two features: int64 [S] (Gumbel's maximum)."""
        noise = -torch.empty(number, len(self.lack), device=self.lack.device).exponential_().log()
        ready = self.pushed >= 2
        return (noise + self.lack.log()).masked_fill(~ready, -torch.inf).argmax(1)

    def _slots(self, labels: Tensor) -> Tensor:
        """Which ring each label's class has; the number of rings, if none (a common class, an ignored label)."""
        slot = self.slot_of_class[labels.clamp(min=0)]
        return torch.where(labels < 0, len(self.lack), slot)

    def _synthesise(self, features: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        device, batch = features.device, len(features)
        work = torch.float64 if features.dtype == torch.float64 else torch.float32
        everyone, place = torch.arange(number, device=device), torch.arange(self.queue, device=device)
        slot = self._draw_class(number)
        queued = self.bank[:-1].view(-1, self.queue, self.dim)[slot].to(work)  # [S, queue, dim]
        stored = place < self.pushed[slot, None]
        in_batch = self._slots(labels) == slot[:, None]  # [S, B]
        pick = torch.rand(number, batch + self.queue, device=device)
        pick = pick.masked_fill(~torch.cat((in_batch, stored), 1), -1.0).argmax(1)
        own = pick - batch  # its place in the ring, or below 0
        base = features.to(work)[pick.clamp(max=batch - 1)]
        base = torch.where(own[:, None] < 0, base, queued[everyone, own.clamp(min=0)])
        distance = (queued - base.detach()[:, None]).square().sum(-1)
        distance = distance.masked_fill(~stored | (place == own[:, None]), torch.inf)
        near = distance.topk(min(self.k_neighbors, self.queue - 1), largest=False)
        choice = (torch.rand(number, device=device) * near.values.isfinite().sum(1)).long()
        other = queued[everyone, near.indices[everyone, choice.clamp(max=near.indices.shape[1] - 1)]]
        made = base + torch.rand(number, 1, device=device, dtype=work) * (other - base)
        ready = (self.pushed >= 2).any()
        repeated = torch.randint(batch, (number,), device=device)
        made = torch.where(ready, made.to(features.dtype), features[repeated])
        return made, torch.where(ready, self.class_of_slot[slot].to(labels.dtype), labels[repeated])

    def _push(self, features: Tensor, labels: Tensor) -> None:
        """The batch's rare features into their rings; of more than a ring holds, the last ones."""
        rings = len(self.lack)
        slot = self._slots(labels)
        mine = slot[:, None] == torch.arange(rings, device=slot.device)  # [B, rings]
        number = mine.sum(0)
        ring = slot.clamp(max=rings - 1)
        rank = (mine.cumsum(0) - 1).gather(1, ring[:, None])[:, 0]  # among those of its class in the batch
        kept = (slot < rings) & (rank >= number[ring] - self.queue)
        place = ring * self.queue + (self.pushed[ring] + rank) % self.queue
        self.bank.index_copy_(0, torch.where(kept, place, rings * self.queue), features.float())
        self.pushed += number
