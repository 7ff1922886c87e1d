"""Pictures that are in memory already, as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.image_files import ArrayImages
from dlrecipes.data.formats.image_source import ImageSource, ImageTable

__all__ = ["array_source"]

Split = tuple[NDArray[np.uint8], Sequence[Any] | NDArray[Any]]


def array_source(
    train: Split,
    val: Split | None = None,
    test: Split | None = None,
    *,
    classes: Sequence[str] = (),
    target_names: Sequence[str] = (),
    name: str = "array",
) -> ImageSource:
    """Arrays as a data set for `dlrecipes.data.ClassificationData`; a split that is missing is made there by seed.

    Args:
        train, val, test: pictures, uint8 [n, H, W, 3], RGB, or [n, H, W], grey, and their targets: integers [n]
            (labels), integers or booleans [n, C] of 0 and 1 (several labels an image), or floating-point numbers [n] or
            [n, T] (regression).
        classes: names; the labels' own numbers if empty.
        target_names: of the numbers of a regression; ``target0`` and so on if empty.
        name: of the data, for messages.

    Raises:
        ValueError: pictures of another type or shape; targets whose number, shape or range does not fit.

    Example:
        >>> pictures = np.zeros((4, 8, 8, 3), dtype=np.uint8)
        >>> source = array_source((pictures, [0, 1, 0, 1]), classes=("cat", "dog"))
        >>> source.task, source.classes, len(source.splits["train"])
        ('classification', ('cat', 'dog'), 4)
    """
    given = {key: split for key, split in (("train", train), ("val", val), ("test", test)) if split is not None}
    targets = {key: np.asarray(split[1]) for key, split in given.items()}
    kinds = {_kind(array) for array in targets.values()}
    if len(kinds) > 1:
        raise ValueError(f"the splits of {name} must hold one kind of targets, got {sorted(kinds)}")
    task = kinds.pop()
    names, outputs = tuple(classes), _width(targets["train"], task, classes)
    if task != "regression" and not names:
        names = tuple(map(str, range(outputs)))
    tables = {}
    for key, (pixels, _) in given.items():
        images = ArrayImages(pixels, [f"{name}:{key}#{index}" for index in range(len(pixels))])
        tables[key] = ImageTable(images, _checked(targets[key], task, outputs, len(images), f"{name}:{key}"))
    if task == "regression" and not target_names:
        target_names = [f"target{index}" for index in range(outputs)]
    return ImageSource(
        root=name,
        format="arrays",
        task=task,
        splits=tables,
        classes=names,
        target_names=tuple(target_names),
    )


def _kind(targets: NDArray[Any]) -> str:
    if np.issubdtype(targets.dtype, np.floating):
        return "regression"
    return "classification" if targets.ndim == 1 else "multilabel"


def _width(targets: NDArray[Any], task: str, classes: Sequence[str]) -> int:
    if targets.ndim == 2:
        return int(targets.shape[1])
    if task == "regression":
        return 1
    return len(classes) or int(targets.max(initial=-1)) + 1


def _checked(targets: NDArray[Any], task: str, outputs: int, images: int, label: str) -> NDArray[Any]:
    """Targets in the type and shape that `ImageTable` wants."""
    if len(targets) != images:
        raise ValueError(f"{label} holds {images} pictures but {len(targets)} targets")
    if task == "classification":
        if targets.size and not (targets.min() >= 0 and targets.max() < outputs):
            raise ValueError(f"labels of {label} must be in 0..{outputs - 1}, got {targets.min()}..{targets.max()}")
        return targets.astype(np.int64)
    numbers = targets.reshape(images, -1).astype(np.float32)
    if numbers.shape[1] != outputs:
        raise ValueError(f"targets of {label} must be [n, {outputs}], got {list(targets.shape)}")
    if task == "multilabel" and not np.isin(numbers, (0.0, 1.0)).all():
        raise ValueError(f"targets of {label} must be 0 or 1 where there are several labels an image")
    return numbers
