"""Whole images as batches: samples are pure functions of (seed, epoch, index), and a batch is read at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dlrecipes.contracts import ImageBatch, evaluation_side
from dlrecipes.data.augment.image_resize import crop_corner, evaluation_image
from dlrecipes.data.augment.image_transforms import ImageTransform
from dlrecipes.data.formats.image_source import ImageTable
from dlrecipes.data.loading.cache import ImageCache
from dlrecipes.data.loading.sampler import sample_seed
from dlrecipes.errors import UserError

__all__ = ["ImageDataset", "unchanged"]

T = TypeVar("T")
Key = tuple[int, int] | int


def unchanged(batch: T) -> T:
    """The ``collate_fn`` of a data set that makes batches itself."""
    return batch


class ImageDataset(Dataset[ImageBatch]):
    """One split, read in batches.

    Where all pictures have one shape, are kept by the cache and need no change, a batch is one copy out of it;
    otherwise each picture is transformed into its place in the batch.

    Args:
        table: the split.
        cache: its decoded pictures; None: each is read when needed.
        image_size: side of the squares in a batch; None: pictures have one shape and stay as they are.
        crop_fraction: see `dlrecipes.contracts.DataInfo`.
        transform: augmentation; None: what evaluation does.
        seed: with epoch and index, the source of all randomness.
    """

    def __init__(
        self,
        table: ImageTable,
        cache: ImageCache | None,
        *,
        image_size: int | None,
        crop_fraction: float = 1.0,
        transform: ImageTransform | None = None,
        seed: int = 0,
    ) -> None:
        self.table = table
        self.cache = cache
        self.image_size = image_size
        self.crop_fraction = crop_fraction
        self.transform = transform
        self.seed = seed
        self._augments = torch.ones((), dtype=torch.bool)
        self._augments.share_memory_()  # workers that live on see it change

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key) -> ImageBatch:
        """A batch of one; see `__getitems__`."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> ImageBatch:
        """The batch of samples ``(epoch, index)``; a bare index means epoch 0. DataLoader calls this once a batch.

        With an epoch, an index of n or more is a further copy of image ``index % n``, with random numbers of its own.
        ``images`` are channels last in memory, and uint8.

        Raises:
            UserError: if a picture cannot be read, or a transform returns something else than uint8 [H, W, 3].
        """
        pairs = [key if isinstance(key, tuple) else (0, range(len(self))[key]) for key in keys]
        draw = np.array([position for _, position in pairs], dtype=np.int64)
        index = draw % len(self)
        ready = self._ready()
        images = np.stack([self._picture(*pair) for pair in pairs]) if ready is None else ready[index]
        weights = self.table.weights
        return {
            "images": torch.from_numpy(images).permute(0, 3, 1, 2),
            "targets": torch.from_numpy(self.table.targets[index]),
            "weights": None if weights is None else torch.from_numpy(weights[index]),
            "index": torch.from_numpy(index),
            "draw": torch.from_numpy(draw),
            "epoch": pairs[0][0] if pairs else 0,
            "paths": [self.table.images.name(position) for position in index.tolist()],
        }

    def set_augmentation(self, on: bool) -> None:
        """Leave ``transform`` out from the next batch that is asked for, or use it again, in workers too."""
        self._augments.fill_(on)

    @property
    def is_one_copy(self) -> bool:
        """Whether a batch takes so little that worker processes would only cost time."""
        return self._ready() is not None

    def _ready(self) -> NDArray[np.uint8] | None:
        """uint8 [n, S, S, 3]: all pictures as they go into batches, if no more than a crop is needed."""
        dense = None if self.cache is None or self.transform is not None else self.cache.dense
        if dense is None or self.image_size is None:
            return dense
        side = self.image_size
        if min(dense.shape[1:3]) != evaluation_side(side, self.crop_fraction):
            return None
        top, left = crop_corner((dense.shape[1], dense.shape[2]), side)
        return dense[:, top : top + side, left : left + side]

    def _picture(self, epoch: int, draw: int) -> NDArray[np.uint8]:
        index = draw % len(self)
        image = self.table.images.read(index) if self.cache is None else self.cache[index]
        if self.transform is None or not self._augments:
            return image if self.image_size is None else evaluation_image(image, self.image_size, self.crop_fraction)
        image = self.transform(image, sample_seed(self.seed, epoch, draw))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UserError(
                f"The augmentation {type(self.transform).__name__} returned {image.dtype} {list(image.shape)} for "
                f"{self.table.images.name(index)}: it must return uint8 [H, W, 3]."
            )
        # What the transform chose is kept whole: no part of it is cut off but to make it a square.
        return image if self.image_size is None else evaluation_image(image, self.image_size, 1.0)
