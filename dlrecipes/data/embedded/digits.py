"""Embedded classification data: scikit-learn's scans of real handwritten digits, without any download."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.image_files import ArrayImages
from dlrecipes.data.formats.image_source import ImageSource, ImageTable

__all__ = ["DIGIT_CLASSES", "LONG_TAIL_RATIO", "embedded_digits", "scan_rows"]

DIGIT_CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONG_TAIL_RATIO = 20.0
"""Training images of ``zero`` : those of ``nine`` in the long-tailed digits; 126 : 6."""

# A scan's position within its digit, modulo 20, decides its split: 70 / 15 / 15 %, stratified, for every seed.
_SPLIT_SLOTS = {"train": range(14), "val": range(14, 17), "test": range(17, 20)}
_SCAN_SIDE = 8


@lru_cache(maxsize=1)
def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # 1.4 s to import: only where digits are used

    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)


def scan_rows(split: str) -> list[NDArray[np.intp]]:
    """Rows of ``sklearn.datasets.load_digits()`` that belong to a split, for each digit.

    >>> [len(scan_rows(split)[0]) for split in ("train", "val", "test")]
    [126, 27, 25]
    """
    _, labels = _scans()
    rows = [np.flatnonzero(labels == label) for label in range(len(DIGIT_CLASSES))]
    return [r[np.isin(np.arange(len(r)) % 20, _SPLIT_SLOTS[split])] for r in rows]


def embedded_digits(long_tailed: bool = False, size: int = 32) -> ImageSource:
    """1797 handwritten digits in fixed train, val and test splits (70 : 15 : 15, stratified, disjoint).

    The 8×8 scans with 17 grey levels are scaled up smoothly; ink is white on black, as in MNIST.

    Args:
        long_tailed: let the number of training images fall exponentially from all of ``zero`` (126) to a twentieth of
            that for ``nine`` (`LONG_TAIL_RATIO`), n_k = n_0 · 20^(−k/9) as in the long-tailed CIFAR of Cui et al.
            (2019). Validation and test stay balanced, so that accuracy on them is balanced accuracy.
        size: side of the square pictures in pixels.

    Returns:
        Source of format ``"digits"``; images are uint8 [size, size, 3] with three equal channels.

    Raises:
        ValueError: if ``size`` is below 8.

    >>> source = embedded_digits(long_tailed=True)
    >>> np.bincount(source.splits["train"].targets).tolist()
    [126, 90, 65, 46, 33, 24, 17, 12, 9, 6]
    """
    if size < _SCAN_SIDE:
        raise ValueError(f"size={size}: the scans have {_SCAN_SIDE} pixels a side, give at least that")
    scans, labels = _scans()
    splits = {}
    for split in _SPLIT_SLOTS:
        by_class = scan_rows(split)
        if long_tailed and split == "train":
            by_class = [_thinned(rows, k, len(by_class[0])) for k, rows in enumerate(by_class)]
        rows = np.sort(np.concatenate(by_class))
        pixels = np.stack([_upsample(scans[row], size) for row in rows])
        splits[split] = ImageTable(ArrayImages(pixels, [f"digits:{split}#{row}" for row in rows]), labels[rows])
    counts = ", ".join(f"{len(table)} for {name}" for name, table in splits.items())
    tail = f" (long-tailed, {LONG_TAIL_RATIO:g} : 1)" if long_tailed else ""
    note = f"scikit-learn's handwritten digits{tail}, scaled up to {size} pixels: {counts}"
    return ImageSource("scikit-learn digits", "digits", "classification", splits, DIGIT_CLASSES, notes=(note,))


def _thinned(rows: NDArray[np.intp], label: int, most: int) -> NDArray[np.intp]:
    """Evenly spaced rows, so that the few that stay come from many writers: the scans are in the order of writers."""
    wanted = min(len(rows), round(most * LONG_TAIL_RATIO ** -(label / (len(DIGIT_CLASSES) - 1))))
    return rows[np.linspace(0, len(rows) - 1, wanted).round().astype(np.intp)]


def _upsample(scan: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    smooth = cv2.resize((scan * (255.0 / 16.0)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(np.rint(smooth), 0.0, 255.0), dtype=np.uint8)
