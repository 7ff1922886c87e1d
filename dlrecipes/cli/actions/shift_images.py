"""Images to compare: a folder of them, or any labelled data set, with its labels if they are known."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.data import ClassificationData
from dlrecipes.data.formats.discover_images import holds_images, read_images
from dlrecipes.data.formats.image_files import PathImages
from dlrecipes.data.formats.image_source import ImageFiles, ImageTable
from dlrecipes.data.loading.predict import find_images
from dlrecipes.errors import UserError

__all__ = ["ShiftImages", "common_side", "read_shift_images"]

_REFERENCE_SPLITS = ("val", "test")  # of a data set with splits: what no network was trained on
_MOST_PIXELS = 224


@dataclass(frozen=True, eq=False)
class ShiftImages:
    """One side of a comparison.

    Attributes:
        path: that was given.
        files: all images.
        chosen: int64 [n], positions in ``files`` to look at, in order.
        targets: labels of all images as positions in ``classes``; None: unknown.
        classes: names.
        notes: what was decided, a sentence each.
    """

    path: str
    files: ImageFiles
    chosen: NDArray[np.int64]
    targets: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def sizes(self, side: int) -> Tensor:
        """int64 [N, 2], (height, width) of the chosen images' files by position; elsewhere, and unknown: squares."""
        sizes = torch.full((len(self.files), 2), side)
        for row in self.chosen.tolist():
            known = self.files.size(row)
            if known is not None and min(known) > 0:
                sizes[row] = torch.tensor(known)
        return sizes

    def labels_as(self, classes: Sequence[str]) -> Tensor | None:
        """int64 [n], the chosen images' labels as positions in ``classes``; None: unknown, or of other classes."""
        if self.targets is None or not set(self.classes) <= set(classes):
            return None
        position = np.array([list(classes).index(name) for name in self.classes], dtype=np.int64)
        return torch.from_numpy(position[self.targets[self.chosen]])


def read_shift_images(
    path: str | Path, limit: int, seed: int, *, reference: bool, trained: ClassificationData | None = None
) -> ShiftImages:
    """Find images; at most ``limit`` of them are chosen, by seed.

    Args:
        path: a folder, an image, or whatever ``ClassificationData`` reads.
        limit, seed: of the choice.
        reference: of a data set with splits, take the validation split.
        trained: data of the run that compares. Where the reference is this data, the run's own validation split is
            taken; where training images are among a reference, a note says so.

    Raises:
        UserError: nothing there that can be read.
    """
    own = _own_split(path, trained) if reference and trained is not None else None
    tables, classes, note = own or _tables(path, reference)
    if tables is None:
        files: ImageFiles = PathImages(find_images(path))
        targets = None
    elif len(tables) == 1:
        files, targets = tables[0].images, tables[0].targets
    else:
        files = _Joined([table.images for table in tables])
        targets = np.concatenate([table.targets for table in tables])
    single = targets is not None and targets.ndim == 1 and targets.dtype.kind == "i"
    count = len(files)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:limit]).astype(np.int64)
    notes = [f"{path}: {len(chosen)} of {count} images{note}."]
    if reference and trained is not None and own is None:
        notes += _trained_on(files, chosen, trained)
    return ShiftImages(str(path), files, chosen, targets if single else None, classes, tuple(notes))


def _own_split(
    path: str | Path, trained: ClassificationData
) -> tuple[list[ImageTable] | None, tuple[str, ...], str] | None:
    """The validation split that the run kept from training, if this is its data; as `_tables`."""
    paths = [Path(value).expanduser() for value in (path, trained.path or "")]
    if trained.path is None or (str(path) != str(trained.path) and paths[0].resolve() != paths[1].resolve()):
        return None
    if trained.val_split not in trained.splits:
        return None
    note = f" of the split {trained.val_split}, which the run was not trained on"
    return [trained.table(trained.val_split)], trained.info.classes, note


def _trained_on(files: ImageFiles, chosen: NDArray[np.int64], trained: ClassificationData) -> list[str]:
    """A note if training images, or copies of them under the same name, are among the chosen ones."""
    images = trained.table(trained.train_split).images
    named: dict[str, list[Path]] = {}
    for row in range(len(images)):
        path = Path(images.name(row))
        named.setdefault(path.name, []).append(path)
    count = sum(
        any(_same(path, other) for other in named.get(path.name, ())) for path in map(Path, map(files.name, chosen))
    )
    if not count:
        return []
    return [
        f"{count} of the {len(chosen)} reference images are images that the run was trained on, which a network knows "
        "better than any new ones, so that these look shifted: give images that it was not trained on."
    ]


def _same(path: Path, other: Path) -> bool:
    if path == other or path.absolute() == other.absolute():
        return True
    return path.is_file() and other.is_file() and filecmp.cmp(path, other, shallow=False)


def _tables(path: str | Path, reference: bool) -> tuple[list[ImageTable] | None, tuple[str, ...], str]:
    """Splits of a labelled data set, its classes and what was chosen; None: bare images."""
    given = Path(path).expanduser()
    if not holds_images(path) and given.exists():
        return None, (), ""
    try:
        source = read_images(path)
    except UserError:
        if given.is_dir():  # images without labels
            return None, (), ""
        raise
    names = list(source.splits)
    if reference and len(names) > 1:
        names = next(([name] for name in _REFERENCE_SPLITS if name in names), names)
    note = f" of the split{'s' * (len(names) > 1)} {', '.join(names)}" if len(source.splits) > 1 else ""
    return [source.splits[name] for name in names], source.classes, note


def common_side(sides: Sequence[ShiftImages], samples: int = 100) -> int:
    """Pixels that images of all sides are scaled to, so that sharpness and noise mean the same: the median of their
    shorter sides, at most 224.

    Args:
        sides: of a comparison.
        samples: of each, whose headers are read.
    """
    found = []
    for images in sides:
        rows = images.chosen[:: max(1, len(images.chosen) // samples)].tolist()
        found += [min(size) for size in map(images.files.size, rows) if size is not None]
    return int(min(_MOST_PIXELS, max(8, np.median(found)))) if found else _MOST_PIXELS


class _Joined:
    """Several sets of images as one."""

    def __init__(self, parts: Sequence[ImageFiles]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[ImageFiles, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part], index - (int(self._ends[part - 1]) if part else 0)

    def name(self, index: int) -> str:
        part, row = self._at(index)
        return part.name(row)

    def stamp(self, index: int) -> tuple[int, int]:
        part, row = self._at(index)
        return part.stamp(row)

    def read(self, index: int) -> NDArray[np.uint8]:
        part, row = self._at(index)
        return part.read(row)

    def size(self, index: int) -> tuple[int, int] | None:
        part, row = self._at(index)
        return part.size(row)
