"""Facts about labelled images: which splits are used, whether pictures are small, and the `DataInfo` for parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dlrecipes.contracts import DataInfo
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.splits.split_images import FindImageCopies, split_images
from dlrecipes.data.splits.split_records import missing_parts
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = [
    "NORMALISATIONS",
    "SMALL_SIDE",
    "Statistics",
    "are_digits",
    "image_info",
    "level_shares",
    "moments",
    "pixel_statistics",
    "small_side",
    "with_image_splits",
]

SMALL_SIDE = 64
"""Square pictures up to this size stay as they are, and are augmented on the device."""

NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels scaled to 0..1."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_NAMES = (_DIGITS, tuple("0123456789"), tuple(f"{n} - {name}" for n, name in enumerate(_DIGITS)))
_LEAST_STD = 1.0 / 255.0


def with_image_splits(
    source: ImageSource,
    names: tuple[str, str, str],
    *,
    val_fraction: float,
    seed: int,
    find_copies: FindImageCopies | None = None,
) -> ImageSource:
    """The source with the splits that are used, in the order train, val, test; missing ones are made by seed.

    Args:
        source: as read.
        names: of the splits to train, validate and test on. A test split that does not exist is left out.
        val_fraction, seed: see `dlrecipes.data.ClassificationData`.
        find_copies: see `split_images`.

    Raises:
        UserError: if a name that is not the default one does not exist, or too few images are there to divide.
    """
    train, val, _ = names
    fractions = missing_parts(source.root, source.splits, names, val_fraction)
    if fractions is not None:
        source = split_images(source, seed, fractions, find_copies=find_copies)
        if len(source.splits[train]) and not len(source.splits[val]):
            raise UserError(
                f"{source.root}: none of the {len(source.splits[train])} images can be held out to validate on, "
                "because no class has a second one; add images, or a val split."
            )
    left_out = [name for name in source.splits if name not in names]
    notes = [f"the split {name!r} ({counted(len(source.splits[name]), 'image')}) is not used" for name in left_out]
    splits = {name: source.splits[name] for name in names if name in source.splits}
    return replace(source, splits=splits, notes=(*source.notes, *notes))


def small_side(source: ImageSource) -> int | None:
    """The side of the pictures if all of them, of all splits, are equal squares of at most `SMALL_SIDE`."""
    sizes = {(int(height), int(width)) for table in source.splits.values() for height, width in _extremes(table)}
    if len(sizes) != 1:
        return None
    height, width = sizes.pop()
    return height if height == width <= SMALL_SIDE else None


def _extremes(table: ImageTable) -> NDArray[np.int64]:
    """Smallest and largest height and width, which tell whether all are equal."""
    if table.sizes is None or len(table.sizes) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    return np.stack([table.sizes.min(axis=0), table.sizes.max(axis=0)])


def are_digits(classes: tuple[str, ...]) -> bool:
    """Whether the classes are the ten digits by name, which must not be mirrored.

    Example:
        >>> are_digits(tuple("0123456789")), are_digits(("cat", "dog"))
        (True, False)
    """
    return tuple(name.lower() for name in classes) in _DIGIT_NAMES


def pixel_statistics(read: Callable[[int], NDArray[np.uint8]], count: int, *, most: int = 10_000) -> Statistics:
    """Mean and standard deviation of each channel, for pixels scaled to 0..1, in one pass.

    Levels are counted, and the moments taken of the counts in float64, so order and rounding make no difference.
    Pictures count equally, whatever their size.

    Args:
        read: picture of an index, uint8 [H, W, 3].
        count: pictures there are.
        most: pictures that are looked at; of more, that many evenly spaced ones.

    Returns:
        mean; standard deviation, at least one level.
    """
    share = np.zeros((3, 256))
    positions = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    for index in positions.tolist():
        share += level_shares(read(index))
    return moments(share / max(len(positions), 1))


def level_shares(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """float64 [3, 256]: which share of the pixels of a picture, uint8 [H, W, 3], has each level, by channel."""
    levels = np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])
    return np.asarray(levels / (image.shape[0] * image.shape[1]), dtype=np.float64)


def moments(share: NDArray[np.float64]) -> Statistics:
    """Mean and standard deviation of each channel, of shares [3, 256] that sum to 1: levels count as 0..1.

    Returns:
        mean; standard deviation, at least one level.
    """
    value = np.arange(256) / 255.0
    mean = share @ value
    variance = (share * (value - mean[:, None]) ** 2).sum(axis=1)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).clip(_LEAST_STD).tolist())


def image_info(
    source: ImageSource,
    train_split: str,
    *,
    image_size: int,
    crop_fraction: float,
    normalisation: Statistics,
    pixels: Statistics,
) -> DataInfo:
    """Facts about an audited source, whose training pictures have the statistics ``pixels``."""
    train = source.splits[train_split]
    targets, regression = train.targets, source.task == "regression"
    counts = np.zeros(len(source.classes), dtype=np.int64)
    if source.task == "classification":
        counts += np.bincount(targets, minlength=len(counts))
    elif source.task == "multilabel":
        counts += targets.sum(axis=0).astype(np.int64)
    numbers = targets.astype(np.float64) if regression else np.zeros((1, 0))
    spread = numbers.std(axis=0)
    return DataInfo(
        task=source.task,
        classes=source.classes,
        category_ids=tuple(range(len(source.classes))),
        class_counts=tuple(counts.tolist()),
        num_train=len(train),
        max_objects=0,
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        crop_fraction=crop_fraction,
        target_names=source.target_names,
        target_mean=tuple(numbers.mean(axis=0).tolist()),
        target_std=tuple(np.where(spread > 0.0, spread, 1.0).tolist()),  # a constant stays one
        pixel_mean=pixels[0],
        pixel_std=pixels[1],
        target_min=tuple(numbers.min(axis=0).tolist()),
        target_max=tuple(numbers.max(axis=0).tolist()),
    )
