"""Training samples in another frequency than the data has them: the samplers of dlrecipes.imbalance for our loaders."""

from __future__ import annotations

from typing import Any, get_args

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.data.loading.sampler import EpochSampler
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted
from dlrecipes.imbalance import (
    BalancedDistributedSampler,
    MPerClassSampler,
    RepeatFactorSampler,
    SamplingMode,
    ShardedSampler,
    WeightedDistributedSampler,
    double_balance,
    first_balanced_epoch,
)

__all__ = ["SAMPLERS", "ResampledEpochSampler", "Resampling"]

_M_PER_CLASS = "m_per_class"
_ONE_LABEL = (*get_args(SamplingMode), _M_PER_CLASS)
SAMPLERS = (*_ONE_LABEL, "repeat", "weight")


class ResampledEpochSampler(EpochSampler):
    """Yields ``(epoch, index)`` for one rank in the order of a sampler of `dlrecipes.imbalance`.

    The k-th time that sample i comes in an epoch (from 0), its index is ``i + k * size``: a further copy, which the
    data set augments in a way of its own. With one index a rare image would come ten times over with the same crop.

    Args:
        sampler: whose order is followed; its own rank is not.
        rank, world_size: this process among all.

    Example:
        >>> sampler = ResampledEpochSampler(BalancedDistributedSampler([0, 0, 0, 0, 1], "class", epoch_size=8))
        >>> sorted(index for _, index in sampler)
        [0, 1, 2, 3, 4, 9, 14, 19]
    """

    def __init__(self, sampler: ShardedSampler, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(sampler.num_items, shuffle=True, seed=sampler.seed, rank=rank, world_size=world_size)
        self.sampler = sampler

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, whatever is skipped."""
        return self.sampler.rank_size(self.world_size)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        index = self.sampler.positions(epoch, self.world_size)
        return index + _copy(index) * self.size


def _copy(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each number has come before.

    >>> _copy(np.array([7, 5, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    place = np.argsort(index, kind="stable")
    ordered = index[place]
    first = np.searchsorted(ordered, ordered)
    copy = np.empty_like(index)
    copy[place] = np.arange(len(index)) - first
    return copy


class Resampling:
    """The options of `dlrecipes.data.ClassificationData` that say how often an image is drawn; see there.

    Raises:
        UserError: for a value that no data could make right.
    """

    def __init__(
        self,
        sampler: str,
        *,
        start: float,
        threshold: float,
        seed: int,
        samples_per_class: int = 4,
        batch_size: int = 64,
    ) -> None:
        if sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}.")
        if start < 0 or (start >= 1 and start != int(start)):
            raise UserError(f"sampler_start must be an epoch from 0 on, or a share of them below 1, got {start}.")
        if not 0.0 < threshold <= 1.0:
            raise UserError(f"repeat_threshold must be above 0 and at most 1, a share of the images, got {threshold}.")
        if start and sampler in ("repeat", "weight", _M_PER_CLASS):
            kind = "one label an image" if sampler != _M_PER_CLASS else "samplers of single images"
            raise UserError(f"sampler_start is for {kind}: leave it out with the sampler {sampler!r}.")
        if sampler == _M_PER_CLASS and not (samples_per_class >= 1 and batch_size % samples_per_class == 0):
            raise UserError(f"samples_per_class must divide the batch size, {batch_size}, got {samples_per_class}.")
        self.sampler, self.start, self.threshold, self.seed = sampler, start, threshold, seed
        self.samples_per_class, self.batch_size = samples_per_class, batch_size

    def make(
        self,
        info: DataInfo,
        targets: NDArray[Any],
        trainer: L.Trainer | None,
        weights: NDArray[np.float32] | None = None,
    ) -> ShardedSampler:
        """The sampler of a training split; warns if the trainer's task has a loss that balances the classes, too.

        Args:
            info: kind of data, and classes.
            targets: int64 [n], or 0 and 1 [n, C].
            trainer: its epochs are those of ``"progressive"``.
            weights: float32 [n], of ``"weight"``.

        Raises:
            UserError: a sampler that is not for this kind of data, a class without an image, unknown epochs, or no
                weights.
        """
        if self.sampler == "weight":
            if weights is None:
                raise UserError(
                    "The sampler 'weight' draws images by their weights, and the training split has none: add a column "
                    "weight (dlrecipes reweight writes one), or leave --data.sampler out."
                )
            return WeightedDistributedSampler(weights, seed=self.seed)
        task = None if trainer is None else trainer.lightning_module
        loss = getattr(task, "loss", None)
        warning = double_balance(self.sampler, loss if isinstance(loss, nn.Module) else None)
        if warning is not None:
            rank_zero_warn(warning)
        if info.task == "regression":
            raise UserError(
                f"The sampler {self.sampler!r} draws classes, and the targets are numbers: leave --data.sampler out."
            )
        several = info.task == "multilabel"
        if several != (self.sampler == "repeat"):
            others = "repeat" if several else ", ".join(_ONE_LABEL)
            kind = "several labels" if several else "one label"
            raise UserError(f"The sampler {self.sampler!r} is not for images with {kind} each: use {others}.")
        if several:
            labels = [np.flatnonzero(row).tolist() for row in targets]
            return RepeatFactorSampler(labels, self.threshold, seed=self.seed)
        return self._balanced(targets, info.classes, _epochs(trainer))

    def _balanced(self, targets: NDArray[np.int64], classes: tuple[str, ...], epochs: int | None) -> ShardedSampler:
        empty = np.flatnonzero(np.bincount(targets, minlength=len(classes)) == 0)
        if len(empty):
            raise UserError(
                f"The sampler {self.sampler!r} cannot draw {classes[empty[0]]!r}, of which no image is in the training "
                f"split ({counted(len(empty), 'such class', 'such classes')}): add images, or leave --data.sampler out."
            )
        if self.sampler == _M_PER_CLASS:
            return self._m_per_class(targets, classes)
        if self.sampler == "progressive" and epochs is None:
            raise UserError(
                "The sampler 'progressive' changes over the epochs of a run: set the trainer's max_epochs (--epochs)."
            )
        start = self._first_epoch(epochs)
        if epochs is not None and start >= epochs:
            raise UserError(f"sampler_start is {start}, and there are {epochs} epochs: take an earlier one.")
        mode = next(mode for mode in get_args(SamplingMode) if mode == self.sampler)
        return BalancedDistributedSampler(
            targets, mode, num_classes=len(classes), epochs=epochs, start=start, seed=self.seed
        )

    def _m_per_class(self, targets: NDArray[np.int64], classes: tuple[str, ...]) -> MPerClassSampler:
        m, in_batch = self.samples_per_class, self.batch_size // self.samples_per_class
        if in_batch > len(classes):
            raise UserError(
                f"A batch of {self.batch_size} with {m} images a class needs {in_batch} classes, and the data has "
                f"{len(classes)}: raise samples_per_class, or take smaller batches."
            )
        return MPerClassSampler(targets, m, self.batch_size, num_classes=len(classes), seed=self.seed)

    def _first_epoch(self, epochs: int | None) -> int:
        if self.start >= 1 or self.start == 0:
            return int(self.start)
        if epochs is None:
            raise UserError(
                f"sampler_start is {self.start}, a share of the run's epochs: set the trainer's max_epochs (--epochs)."
            )
        return first_balanced_epoch(self.start, epochs)

    def note(self, sampler: ShardedSampler) -> str:
        """A sentence on what an epoch holds."""
        start = sampler.start if isinstance(sampler, BalancedDistributedSampler) else 0
        late = f" from epoch {start + 1} on" if start else ""
        if isinstance(sampler, RepeatFactorSampler):
            return (
                f"An epoch draws {sampler.epoch_size} of {sampler.num_items} images, those with rare labels up to "
                f"{sampler.factors.max():.1f} times."
            )
        if isinstance(sampler, WeightedDistributedSampler):
            return (
                f"An epoch draws {sampler.epoch_size} of {sampler.num_items} images by their weights, which the loss "
                "leaves out."
            )
        if isinstance(sampler, MPerClassSampler):
            in_batch = sampler.batch_size // sampler.m
            return (
                f"A batch holds {sampler.m} images of each of {in_batch} classes, an epoch {sampler.batches} batches."
            )
        return f"Images are drawn by the sampler {self.sampler!r}{late}, {sampler.epoch_size} in an epoch."


def _epochs(trainer: L.Trainer | None) -> int | None:
    """Of the run; None where something else ends it."""
    most = None if trainer is None else trainer.max_epochs
    return None if most is None or most < 0 else most
