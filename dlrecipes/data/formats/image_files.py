"""Where images lie: files, rows of Parquet files, arrays, torchvision data sets; all read through one protocol.

Each class can be pickled into a data worker and read by several threads at once.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.image_source import ImageFiles, ImageTable
from dlrecipes.data.loading.decode import EXIF_ORIENTATION, DecodedImage, decode, image_size, to_rgb, upright
from dlrecipes.errors import UserError

__all__ = [
    "ArrayImages",
    "DecodesImages",
    "ImageSubset",
    "PathImages",
    "TorchvisionImages",
    "decode_at",
    "file_stamp",
    "take",
]


@runtime_checkable
class DecodesImages(Protocol):
    """`ImageFiles` that also tell how an image was stored."""

    def decode(self, index: int) -> DecodedImage:
        """Pixels, upright; the EXIF orientation that they were stored in; Pillow mode."""


def decode_at(images: ImageFiles, index: int) -> DecodedImage:
    """One image with what is known about how it was stored; an implementation that cannot tell counts as RGB."""
    if isinstance(images, DecodesImages):
        return images.decode(index)
    return DecodedImage(images.read(index), 1, "RGB")


def file_stamp(path: str) -> tuple[int, int]:
    """(bytes, time of change in ns); (-1, -1) if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


class PathImages:
    """Image files, turned upright as their EXIF orientation says.

    Paths are kept as one block of bytes: a list of a million strings takes twice the memory and is copied into each
    worker as soon as its reference counts change.

    Args:
        paths: image files, in order.

    >>> images = PathImages(["/data/cat/a.jpg", "/data/dog/b.jpg"])
    >>> len(images), images.name(1)
    (2, '/data/dog/b.jpg')
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._prefix = _common_folder(encoded)
        prefix = len(self._prefix)
        self._text = b"".join(path[prefix:] for path in encoded)
        self._ends = np.cumsum([len(path) - prefix for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        """The path."""
        row = _checked(index, len(self))
        start = int(self._ends[row - 1]) if row else 0
        return os.fsdecode(self._prefix + self._text[start : int(self._ends[row])])

    def stamp(self, index: int) -> tuple[int, int]:
        return file_stamp(self.name(index))

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.decode(index).pixels

    def decode(self, index: int) -> DecodedImage:
        return upright(decode(self.name(index)))

    def size(self, index: int) -> tuple[int, int] | None:
        found = image_size(self.name(index), turned=True)
        return None if found is None else (found[1], found[0])


class ArrayImages:
    """Images that are in memory.

    Args:
        pixels: uint8 [n, H, W] grey or [n, H, W, 3] RGB.
        names: n names, for messages and pictures.

    Raises:
        ValueError: for another dtype or shape, or a different number of names.

    >>> images = ArrayImages(np.zeros((2, 8, 8), dtype=np.uint8), ["a", "b"])
    >>> images.read(0).shape, images.size(1)
    ((8, 8, 3), (8, 8))
    """

    def __init__(self, pixels: NDArray[np.uint8], names: Sequence[str]) -> None:
        if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
            raise ValueError(f"pixels: needs uint8 [n, H, W] or [n, H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        if len(pixels) != len(names):
            raise ValueError(f"names: {len(names)} for {len(pixels)} images")
        self._pixels = pixels
        self._names = tuple(names)

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, index: int) -> str:
        return self._names[_checked(index, len(self))]

    def stamp(self, index: int) -> tuple[int, int]:
        """(bytes, checksum): there is no file whose time could tell."""
        pixels = self._pixels[_checked(index, len(self))]
        return (pixels.nbytes, zlib.crc32(np.ascontiguousarray(pixels).data))

    def read(self, index: int) -> NDArray[np.uint8]:
        """A copy, which the caller may change."""
        pixels: NDArray[np.uint8] = self._pixels[_checked(index, len(self))]
        if pixels.ndim == 2:
            return np.repeat(pixels[:, :, None], 3, axis=2)
        return pixels.copy()

    def decode(self, index: int) -> DecodedImage:
        return DecodedImage(self.read(index), 1, "RGB")  # nothing is stored in another form

    def size(self, index: int) -> tuple[int, int] | None:
        _checked(index, len(self))
        return (int(self._pixels.shape[1]), int(self._pixels.shape[2]))


class TorchvisionImages:
    """Images of a torchvision data set, or of any sequence that gives (Pillow image, label).

    One image is read at a time: ``FakeData`` reseeds torch's generator for each, and others share a file handle.

    Args:
        dataset: map-style data set without transforms.
        prefix: what names begin with: image 7 is called ``PREFIX#7``.

    >>> from torchvision.datasets import FakeData
    >>> images = TorchvisionImages(FakeData(3, (3, 8, 8)), "torchvision:FakeData")
    >>> images.name(2), images.read(2).shape
    ('torchvision:FakeData#2', (8, 8, 3))
    """

    def __init__(self, dataset: Any, prefix: str) -> None:
        self.dataset = dataset
        self.prefix = prefix
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"{self.prefix}#{_checked(index, len(self))}"

    def stamp(self, index: int) -> tuple[int, int]:
        """(number of images, 0): torchvision verifies the checksum of what it loads."""
        return (len(self), 0)

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.decode(index).pixels

    def decode(self, index: int) -> DecodedImage:
        name = self.name(index)
        try:
            with self._lock:
                image = self.dataset[_checked(index, len(self))][0]
                pixels = to_rgb(image)
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
                return upright(DecodedImage(pixels, orientation, image.mode))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{name} cannot be decoded as an image ({error}).") from error

    def size(self, index: int) -> tuple[int, int] | None:
        return None

    def __getstate__(self) -> dict[str, object]:
        return {"dataset": self.dataset, "prefix": self.prefix}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # of this very class, as it was made


class ImageSubset:
    """Some images of another collection, in the order of ``rows``.

    Args:
        images: where they lie.
        rows: int64 [m], positions in ``images``.

    >>> ImageSubset(PathImages(["a.jpg", "b.jpg", "c.jpg"]), np.array([2, 0])).name(0)
    'c.jpg'
    """

    images: ImageFiles
    rows: NDArray[np.int64]

    def __init__(self, images: ImageFiles, rows: NDArray[np.int64]) -> None:
        if isinstance(images, ImageSubset):  # one look-up instead of two
            rows = images.rows[rows]
            images = images.images
        self.images = images
        self.rows = np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.images.name(int(self.rows[index]))

    def stamp(self, index: int) -> tuple[int, int]:
        return self.images.stamp(int(self.rows[index]))

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.images.read(int(self.rows[index]))

    def decode(self, index: int) -> DecodedImage:
        return decode_at(self.images, int(self.rows[index]))

    def size(self, index: int) -> tuple[int, int] | None:
        return self.images.size(int(self.rows[index]))


def take(table: ImageTable, rows: NDArray[np.int64]) -> ImageTable:
    """The rows of a split, with every column."""
    return replace(
        table,
        images=ImageSubset(table.images, rows),
        targets=table.targets[rows],
        weights=None if table.weights is None else table.weights[rows],
        sizes=None if table.sizes is None else table.sizes[rows],
    )


def _common_folder(paths: list[bytes]) -> bytes:
    """What all paths begin with, found in the first and the last by alphabet; empty where they share no folder."""
    if not paths:
        return b""
    first, last = min(paths), max(paths)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, length) + 1]


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(f"image {index} of {length}")
    return index
