"""What every format of labelled images becomes: columns of images and targets, by split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.records import Finding
from dlrecipes.functional.words import visible

__all__ = ["ImageFiles", "ImageSource", "ImageTable"]


class ImageFiles(Protocol):
    """Images of one split, wherever they are: files, rows of a Parquet file, a torchvision data set, arrays."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path or ``FILE.parquet#ROW``, for messages, pictures and keys."""

    def stamp(self, index: int) -> tuple[int, int]:
        """(bytes, time of change in ns) of the file that holds it, which tell whether it changed."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB. Raises ``UserError`` naming the image if it is missing or cannot be decoded."""

    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) from the header, without decoding; None if that cannot be told."""


@dataclass(frozen=True, eq=False)
class ImageTable:
    """One split.

    Attributes:
        images: n images.
        targets: int64 [n] labels; float32 [n, C] of 0 and 1 (multilabel); float32 [n, T] numbers (regression).
        weights: float32 [n], how much each sample counts in the loss; None: all the same.
        sizes: int64 [n, 2], (height, width) of each decoded image; set by the audit, None before.
    """

    images: ImageFiles
    targets: NDArray[Any]
    weights: NDArray[np.float32] | None = None
    sizes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A parsed data set of labelled images.

    Attributes:
        root: folder or file that was given.
        format: ``"folders"``, ``"csv"``, ``"parquet"``, ``"torchvision"`` or ``"digits"``.
        task: ``"classification"``, ``"multilabel"`` or ``"regression"``.
        splits: by name; ``valid``, ``validation`` and the like are called ``val``; ``"all"`` where there are none.
        classes: class names; position = contiguous label; the union over splits; empty for regression.
        target_names: of the numbers (regression).
        notes: what was decided while reading, one sentence each.
        problems: findings of the reader; the audit counts them.
    """

    root: str
    format: str
    task: str
    splits: dict[str, ImageTable]
    classes: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Finding, ...] = field(default=())

    def __post_init__(self) -> None:
        # Names go to terminals, tables and files: what is in them is to be seen, and to do nothing.
        object.__setattr__(self, "classes", tuple(map(visible, self.classes)))
        object.__setattr__(self, "target_names", tuple(map(visible, self.target_names)))
