"""Annotated files with mosaic and mixup: each sample still a pure function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dlrecipes.data.augment.mosaic import mix_up, mosaic
from dlrecipes.data.loading.box_dataset import RecordDataset, epoch_and_index, transformed
from dlrecipes.data.loading.collate import DetectionSample
from dlrecipes.data.loading.sampler import sample_seed
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["MixedDataset", "Mixing"]

_MOSAIC, _MIXUP = 1, 2  # streams of random numbers, so that each is the same without the other
_NEVER = -1  # in the place of an epoch
_SCALES = ((0.5, 1.0), (1.0, 1.0))  # of a mosaic's pictures; the second where the first shows too many objects


@dataclass(frozen=True)
class Mixing:
    """How much of the training is on mixed pictures.

    Attributes:
        mosaic: probability that a sample is a mosaic of four pictures.
        mixup: probability that a sample is laid over another one.
        closing_share: part of the epochs, at the end, without either, so that training ends on pictures as they are.

    Raises:
        UserError: for a value outside 0..1.
    """

    mosaic: float = 0.0
    mixup: float = 0.0
    closing_share: float = 0.2

    def __post_init__(self) -> None:
        for name in ("mosaic", "mixup", "closing_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")

    def __bool__(self) -> bool:
        return self.mosaic > 0.0 or self.mixup > 0.0

    def closing_epoch(self, epochs: int | None) -> int | None:
        """First epoch (from 0) without mosaic and mixup, of so many; None: there is none, or ``epochs`` is unknown.

        Example:
            >>> Mixing(mosaic=0.5, closing_share=0.2).closing_epoch(50)
            40
        """
        closing = 0 if epochs is None else round(self.closing_share * epochs)
        return None if epochs is None or closing == 0 else epochs - closing

    def closes(self, epoch: int, epochs: float) -> bool:
        """Whether, in a run of about so many epochs, the last ``closing_share`` begins nearer to the start of ``epoch``
        (from 0) than to its end, or has begun.

        For a run that ends by the clock: how many epochs that will be is known better in each.

        Example:
            >>> [Mixing(mosaic=0.5, closing_share=0.2).closes(epoch, 4.6) for epoch in range(5)]
            [False, False, False, False, True]
        """
        return epoch + min(epoch + 1, epochs) >= 2 * (1 - self.closing_share) * epochs

    def note(self, epochs: int | None) -> str:
        """What is done, in one sentence."""
        parts = [f"{name} {value:g}" for name, value in (("mosaic", self.mosaic), ("mixup", self.mixup)) if value > 0]
        start = f"Training samples are mixed ({', '.join(parts)})"
        if epochs is None:
            return (
                f"{start} to the end, or the last share of a TimeBudget: when that is cannot be told without --epochs."
            )
        closing = self.closing_epoch(epochs)
        every = f"in {'all ' * (epochs > 1)}{counted(epochs, 'epoch')}"
        return f"{start} {every}." if closing is None else f"{start} up to epoch {closing} of {epochs}."


class MixedDataset(Dataset[DetectionSample]):
    """A data set of annotated files whose samples are mosaics and mixtures, as `Mixing` says.

    Whether, with which partners and how a sample is mixed is drawn from (seed, epoch, index). Partners come from the
    same cache. A mosaic is transformed by ``transform.after_mosaic`` where the transform has that, a mixup's two
    pictures each by itself before. A mosaic of more than ``max_objects`` objects is made again with its pictures in
    full size, which shows less of each; what still holds too many, and such a mixup, is not mixed.

    Args:
        base: the annotated files.
        mixing: probabilities.
        side: longer side of a mosaic.
        max_objects: most objects of a mixed sample, as many as the model can find; None: not limited.
        closing_epoch: see `Mixing.closing_epoch`; it may be set later, and data workers that run already see it in
            the samples that they are asked for next.
        weights: float64 [n], how often each picture is a partner; None: all the same.
    """

    def __init__(
        self,
        base: RecordDataset,
        mixing: Mixing,
        side: int,
        *,
        max_objects: int | None = None,
        closing_epoch: int | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.base = base
        self.mixing = mixing
        self.side = side
        self.max_objects = max_objects
        self._closing = torch.tensor(_NEVER).share_memory_()  # each worker has a copy of the rest
        self.closing_epoch = closing_epoch
        given = np.ones(len(base)) if weights is None else weights
        self._partners = np.cumsum(given) / given.sum()
        self._after_mosaic: Any = getattr(base.transform, "after_mosaic", base.transform)

    @property
    def closing_epoch(self) -> int | None:
        """First epoch without mixing; None: there is none so far."""
        epoch = int(self._closing)
        return None if epoch == _NEVER else epoch

    @closing_epoch.setter
    def closing_epoch(self, epoch: int | None) -> None:
        self._closing.fill_(_NEVER if epoch is None else epoch)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, key: tuple[int, int] | int) -> DetectionSample:
        """Sample ``(epoch, index)``; a bare index means epoch 0."""
        epoch, index = epoch_and_index(key)
        closing = self.closing_epoch
        if closing is not None and epoch >= closing:
            return self.base[key]
        seed = sample_seed(self.base.seed, epoch, index)
        rng = np.random.default_rng((seed, _MIXUP))
        sample = self._mosaic(index, seed)
        if not rng.random() < self.mixing.mixup:
            return sample
        partner = self.base.read(self._partner(rng))
        other = transformed(partner, self.base.transform, int(rng.integers(2**63)))
        mixed = mix_up(sample, other, rng)
        return mixed if self._fits(mixed) else sample

    def _mosaic(self, index: int, seed: int) -> DetectionSample:
        """The sample alone or as a mosaic, transformed."""
        sample, rng = self.base.read(index), np.random.default_rng((seed, _MOSAIC))
        if rng.random() < self.mixing.mosaic:
            four = [sample, *(self.base.read(self._partner(rng)) for _ in range(3))]
            for scales in _SCALES:
                together = mosaic(four, self.side, rng, scales=scales)
                if self._fits(together):
                    return transformed(together, self._after_mosaic, seed)
        return transformed(sample, self.base.transform, seed)

    def _partner(self, rng: np.random.Generator) -> int:
        return min(int(np.searchsorted(self._partners, rng.random(), side="right")), len(self.base) - 1)

    def _fits(self, sample: DetectionSample) -> bool:
        return self.max_objects is None or len(sample["labels"]) <= self.max_objects
