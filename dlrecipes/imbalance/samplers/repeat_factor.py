"""How often an image with several labels or boxes should be seen, so that its rarest class is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlrecipes.imbalance.samplers.order import fixed_sum_counts, generator
from dlrecipes.imbalance.samplers.sharding import ShardedSampler

__all__ = ["RepeatFactorSampler", "repeat_factors"]

_COUNTS, _ORDER = 0x726570656174, 0x6F72646572


def repeat_factors(image_labels: Sequence[Sequence[int]], threshold: float) -> NDArray[np.float64]:
    r"""How many times each image is wanted in an epoch (Gupta et al., 2019, LVIS, arXiv:1908.03195).

    .. math:: r_i = \max_{c \in i} \max\left(1, \sqrt{t / f_c}\right)

    with f_c the share of all images that have class c, however many objects of it. Images whose classes are all more
    frequent than t keep a factor of 1, and so do images without labels.

    Args:
        image_labels: classes (int, not negative) of each image, any number of them, in any order, repeated or not: the
            labels of a multi-label image or of the boxes in it.
        threshold: t, between 0 and 1; 0 leaves every image as it is. LVIS uses 0.001 with 1203 classes.

    Returns:
        float64 [N], each at least 1.

    Raises:
        ValueError: a threshold outside 0..1 or a negative class.

    Example:
        >>> repeat_factors([[0], [0, 0, 1], [0], []], threshold=1.0).round(3).tolist()
        [1.155, 2.0, 1.155, 1.0]
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold}: a share of the images, between 0 and 1")
    sizes = np.fromiter((len(labels) for labels in image_labels), np.int64, len(image_labels))
    factors = np.ones(len(image_labels))
    if not sizes.sum():
        return factors
    classes = np.concatenate([np.asarray(labels, dtype=np.int64) for labels in image_labels])
    if classes.min() < 0:
        raise ValueError(f"image_labels has class {classes.min()}: not below 0")
    found, place = np.unique(classes, return_inverse=True)
    images = np.repeat(np.arange(len(image_labels)), sizes)
    images, classes = np.divmod(np.unique(images * len(found) + place), len(found))  # a class counts once an image
    share = np.bincount(classes) / len(image_labels)
    np.maximum.at(factors, images, np.sqrt(threshold / share[classes]))
    return factors


class RepeatFactorSampler(ShardedSampler):
    """Draws each image as often as its rarest class asks for, at least once: for multi-label data and detection.

    An epoch takes the floor or the ceiling of each image's factor, in random order; in the mean over epochs it is the
    factor itself, but for a common scale that makes the sum of all a whole number. So all epochs have the same length,
    which learning-rate schedules need; drawing each fraction for itself (as in LVIS) would change it.

    When to use: several classes share an image, so that no sampler can balance them one by one. Rare classes bring the
    frequent ones of their images along, so it is milder than class-balanced sampling, and epochs become longer. Do not
    combine it with class weights in the loss (`double_balance`).

    Args:
        image_labels, threshold: as in `repeat_factors`.
        seed, rank, world_size: as in `ShardedSampler`.

    Raises:
        ValueError: no images, or an argument outside its range.

    Example:
        >>> sampler = RepeatFactorSampler([[0], [0, 1], [0], [0]], threshold=1.0)
        >>> len(sampler), sorted(sampler)
        (5, [0, 1, 1, 2, 3])
    """

    def __init__(
        self,
        image_labels: Sequence[Sequence[int]],
        threshold: float,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if len(image_labels) == 0:
            raise ValueError("image_labels is empty: there is nothing to draw")
        self.factors = repeat_factors(image_labels, threshold)
        self.threshold = threshold
        self.num_items = len(image_labels)
        epoch_size = math.ceil(round(float(self.factors.sum()), 6))
        super().__init__(epoch_size, seed=seed, rank=rank, world_size=world_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Index of the image at each position of an epoch, int64 [epoch_size]."""
        counts = fixed_sum_counts(self.factors, self.epoch_size, generator(self.seed, _COUNTS, epoch))
        images = np.repeat(np.arange(self.num_items), counts)
        return generator(self.seed, _ORDER, epoch).permutation(images)
