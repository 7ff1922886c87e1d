"""Samplers that decide how often each class is seen, for data with one label a sample."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dlrecipes.functional.class_weights import class_weights
from dlrecipes.imbalance.samplers.order import ClassCycles, fixed_sum_counts, generator, label_array
from dlrecipes.imbalance.samplers.sharding import ShardedSampler

__all__ = ["BalancedDistributedSampler", "MPerClassSampler", "SamplingMode", "class_shares"]

SamplingMode = Literal["instance", "sqrt", "class", "effective", "progressive"]

_SLOTS, _COUNTS, _CLASSES = 0x736C6F7473, 0x636F756E74, 0x636C617373


def class_shares(
    counts: ArrayLike, mode: SamplingMode, *, epoch: int = 0, epochs: int | None = None, beta: float = 0.999
) -> NDArray[np.float64]:
    r"""Share of each class in what a sampler draws, of classes with n of N samples.

    - ``"instance"``: :math:`n / N`, as the data is;
    - ``"sqrt"``: :math:`\propto \sqrt n` (Mahajan et al., 2018, arXiv:1805.00932);
    - ``"class"``: :math:`1 / C`;
    - ``"effective"``: :math:`\propto n (1 - β)/(1 - β^n)`: the effective-number weights of Cui et al. (2019,
      arXiv:1901.05555) as probabilities; near 0 β gives ``"instance"``, near 1 ``"class"``;
    - ``"progressive"``: from ``"instance"`` to ``"class"``, :math:`(1 - t/T)\, n/N + (t/T)/C` in epoch t of T (Kang et
      al., 2020, arXiv:1910.09217).

    Args:
        counts: samples of each class, int [C].
        mode: see above.
        epoch, epochs: t and T, of ``"progressive"``; from T on it is ``"class"``.
        beta: β of ``"effective"``.

    Returns:
        float64 [C], of sum 1.

    Raises:
        ValueError: an unknown mode, β outside (0, 1), ``"progressive"`` without T.

    Example:
        >>> class_shares([90, 10], "sqrt").tolist(), class_shares([90, 10], "progressive", epoch=5, epochs=10).tolist()
        ([0.75, 0.25], [0.7, 0.3])
    """
    n: NDArray[np.float64] = np.asarray(counts, dtype=np.float64)
    if mode not in get_args(SamplingMode):
        raise ValueError(f"mode={mode!r}: use {', '.join(map(repr, get_args(SamplingMode)))}")
    occurs = (n > 0).astype(np.float64)
    if mode == "progressive":
        if epochs is None or epochs < 1:
            raise ValueError(f"epochs={epochs}: mode 'progressive' needs the number of epochs, at least 1")
        done = min(epoch / epochs, 1.0)
        size = (1 - done) * n / n.sum() + done * occurs / occurs.sum()
    elif mode == "effective":
        size = n * class_weights([int(count) for count in n], "effective", beta=beta).double().numpy()
    else:
        size = {"instance": n, "sqrt": np.sqrt(n), "class": occurs}[mode]
    return np.asarray(size / size.sum())


class _ClassSampler(ShardedSampler):
    """Which class stands at which position is the subclass's matter; which sample of it follows from its cycles.

    A class goes on in an epoch where it stopped in the one before, so that its samples come equally often over a run,
    too. That needs the number of all draws before an epoch, which is added up from the first one.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        num_classes: int,
        epoch_size: int,
        *,
        seed: int,
        rank: int | None,
        world_size: int | None,
        block: int = 1,
    ) -> None:
        super().__init__(epoch_size, seed=seed, rank=rank, world_size=world_size, block=block)
        self.num_classes = num_classes
        self.num_items = len(labels)
        self._cycles = ClassCycles(labels, num_classes, seed)
        self._reached = (0, np.zeros(num_classes, dtype=np.int64))

    @abstractmethod
    def slots(self, epoch: int) -> NDArray[np.int64]:
        """Class at each position of an epoch, int64 [epoch_size]."""

    def draws(self, epoch: int) -> NDArray[np.int64]:
        """How many samples of each class an epoch takes, int64 [C]."""
        return np.bincount(self.slots(epoch), minlength=self.num_classes)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Index of the sample at each position of an epoch, int64 [epoch_size]."""
        slots, start = self.slots(epoch), self._drawn_before(epoch)
        order = np.empty(self.epoch_size, dtype=np.int64)
        counts = np.bincount(slots, minlength=self.num_classes)
        order[np.argsort(slots, kind="stable")] = self._cycles.take(start, start + counts)
        return order

    def _drawn_before(self, epoch: int) -> NDArray[np.int64]:
        at, drawn = self._reached
        if epoch < at:
            at, drawn = 0, np.zeros_like(drawn)
        for before in range(at, epoch):
            drawn = drawn + self.draws(before)
        self._reached = (epoch, drawn)
        return drawn


class BalancedDistributedSampler(_ClassSampler):
    """Draws each class as often as ``mode`` says, and each sample of a class equally often.

    An epoch takes the floor or the ceiling of each class's share of ``epoch_size``, in random order. Within a class all
    samples come once before one comes again, over the ends of epochs, too; ``"instance"`` is thus a permutation of the
    data. Sharing out to ranks, epochs and going on in mid-epoch: see `ShardedSampler`.

    When to use: the tail has too few samples a batch to be learned, and the metric counts classes equally. It hurts
    where the tail is tiny: few samples, seen over and over, are learned by heart, so augment strongly, take ``"sqrt"``,
    or begin late (``start``). Do not combine it with class weights or a prior in the loss (`double_balance`).

    Args:
        labels: class of each sample, int [N] from 0: a sequence, an array or a tensor.
        mode: see `class_shares`.
        num_classes: C; None: the largest label and one.
        epoch_size: samples of an epoch, over all ranks; None: N.
        epochs: of the run, for ``"progressive"``.
        start: epochs before this one draw as ``"instance"`` does: deferred re-sampling (Cao et al., 2019,
            arXiv:1906.07413). ``"progressive"`` goes its way from there.
        beta: of ``"effective"``.
        seed, rank, world_size: as in `ShardedSampler`.

    Raises:
        ValueError: a class without a sample, labels that are no classes, an argument outside its range.

    Example:
        >>> sampler = BalancedDistributedSampler([0] * 90 + [1] * 10, "class", epoch_size=40)
        >>> indices = list(sampler)
        >>> sum(index >= 90 for index in indices), len(set(indices))
        (20, 30)
    """

    def __init__(
        self,
        labels: ArrayLike | torch.Tensor,
        mode: SamplingMode = "class",
        *,
        num_classes: int | None = None,
        epoch_size: int | None = None,
        epochs: int | None = None,
        start: int = 0,
        beta: float = 0.999,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        found = label_array(labels)
        if start < 0:
            raise ValueError(f"start={start}: an epoch, not below 0")
        if mode == "progressive" and epochs is not None and epochs <= start:
            raise ValueError(f"epochs={epochs}: more than start={start} are needed")
        super().__init__(
            found,
            int(found.max()) + 1 if num_classes is None else num_classes,
            len(found) if epoch_size is None else epoch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.mode, self.epochs, self.start, self.beta = mode, epochs, start, beta
        class_shares(self.counts, mode, epochs=epochs, beta=beta)  # refuses wrong arguments

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each class in the data, int64 [C]."""
        return self._cycles.counts

    def shares(self, epoch: int) -> NDArray[np.float64]:
        """Share of each class in an epoch, float64 [C]."""
        if epoch < self.start:
            return class_shares(self.counts, "instance")
        epochs = None if self.epochs is None else self.epochs - self.start
        return class_shares(self.counts, self.mode, epoch=epoch - self.start, epochs=epochs, beta=self.beta)

    def draws(self, epoch: int) -> NDArray[np.int64]:
        """How many samples of each class an epoch takes, int64 [C]."""
        return fixed_sum_counts(self.shares(epoch), self.epoch_size, generator(self.seed, _COUNTS, epoch))

    def slots(self, epoch: int) -> NDArray[np.int64]:
        """Class at each position of an epoch, int64 [epoch_size]."""
        classes = np.repeat(np.arange(self.num_classes), self.draws(epoch))
        return generator(self.seed, _SLOTS, epoch).permutation(classes)


class MPerClassSampler(_ClassSampler):
    """Batches of ``batch_size / m`` classes with m samples each, for losses that compare samples of a batch.

    Classes come in random order and equally often, none twice in a batch; samples of a class in cycles, as in
    `BalancedDistributedSampler`. A class with fewer than m samples repeats them in its batch. Each rank gets whole
    batches, and the batches of all ranks are those that one would have.

    When to use: metric learning (supervised contrastive, triplet), where a batch without two samples of a class teaches
    nothing. It is class-balanced, and hurts where that does.

    Args:
        labels: class of each sample, int [N] from 0.
        m: samples of a class in a batch.
        batch_size: of the loader on each rank, a multiple of m.
        batches: of an epoch, over all ranks; None: N / batch_size, rounded down, at least 1.
        num_classes: C; None: the largest label and one.
        seed, rank, world_size: as in `ShardedSampler`.

    Raises:
        ValueError: a class without a sample, or a ``batch_size`` that is no multiple of m or needs more classes.

    Example:
        >>> labels = np.array([0] * 90 + [1] * 10 + [2] * 4)
        >>> sampler = MPerClassSampler(labels, m=3, batch_size=6)
        >>> np.unique(labels[list(sampler)[:6]], return_counts=True)[1].tolist()
        [3, 3]
    """

    def __init__(
        self,
        labels: ArrayLike | torch.Tensor,
        m: int,
        batch_size: int,
        *,
        batches: int | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        found = label_array(labels)
        classes = int(found.max()) + 1 if num_classes is None else num_classes
        if m < 1 or batch_size < m or batch_size % m:
            raise ValueError(f"batch_size={batch_size} and m={m}: the former must be a multiple of the latter")
        if batch_size // m > classes:
            raise ValueError(
                f"batch_size={batch_size} and m={m} need {batch_size // m} classes in a batch, and there are {classes}:"
                " raise m"
            )
        if batches is not None and batches < 1:
            raise ValueError(f"batches={batches}: at least 1 is needed")
        number = max(len(found) // batch_size, 1) if batches is None else batches
        super().__init__(
            found, classes, number * batch_size, seed=seed, rank=rank, world_size=world_size, block=batch_size
        )
        self.m, self.batch_size, self.batches = m, batch_size, number

    def slots(self, epoch: int) -> NDArray[np.int64]:
        """Class at each position of an epoch, int64 [epoch_size]."""
        random, wanted = generator(self.seed, _CLASSES, epoch), self.epoch_size // self.m
        in_batch = self.batch_size // self.m
        parts: list[NDArray[Any]] = []
        for begun in range(0, wanted, self.num_classes):
            classes = random.permutation(self.num_classes)
            if begun % in_batch:  # the last batch is not full, and must not get a class that it has
                has = np.isin(classes, parts[-1][-(begun % in_batch) :])
                classes = np.concatenate([classes[~has], classes[has]])
            parts.append(classes)
        return np.repeat(np.concatenate(parts)[:wanted], self.m)
