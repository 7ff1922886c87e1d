"""How often an image with several labels or boxes should be seen, so that its rarest class is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["repeat_factors"]


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
