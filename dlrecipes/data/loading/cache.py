"""Decoded pictures, kept in memory or in a memory-mapped file, so that no picture is decoded twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from dlrecipes.data.audit.probe import cache_folder
from dlrecipes.data.augment.geometry import longest_side, resize
from dlrecipes.data.augment.image_resize import resize_shorter, shorter_to
from dlrecipes.data.formats.image_source import ImageFiles
from dlrecipes.data.formats.records import DetectionRecord
from dlrecipes.data.loading.decode import read_image
from dlrecipes.errors import UserError

__all__ = ["ImageCache", "RecordImages"]

_MAGIC = b"DLRIMG2\n"  # raise it when the same file comes to give other pixels
_NO_BOXES = np.zeros((0, 4))
_SAMPLED = 512  # pictures of which a row goes into the checksum


class RecordImages:
    """The image files of detection records as `ImageFiles`."""

    def __init__(self, records: Sequence[DetectionRecord]) -> None:
        self._files = [(record.path, (record.height, record.width), record.turned) for record in records]

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index][0]

    def stamp(self, index: int) -> tuple[int, int]:
        path, _, turned = self._files[index]
        status = os.stat(path)
        # Turned by 180 degrees, the same file of the same shape has other pixels, which are not to be mixed up.
        return status.st_size, -status.st_mtime_ns if turned else status.st_mtime_ns

    def read(self, index: int) -> NDArray[np.uint8]:
        path, _, turned = self._files[index]
        return read_image(path, turned=turned)

    def size(self, index: int) -> tuple[int, int]:
        return self._files[index][1]


class ImageCache:
    """Decoded pictures, scaled down so that their longer side is at most ``max_side`` or their shorter ``min_side``.

    By size: up to ``memory_bytes`` they stay in memory; above, in a file below ``$DLRECIPES_CACHE`` (otherwise
    ``~/.cache/dlrecipes``) that all workers and ranks map and later runs find again; above ``limit_bytes`` or half of
    the disk's free space they are decoded each time. ``note`` says which.

    The file's name is a hash of each picture's name, size and time of change and of the side; it is written under a
    lock, by one process while others wait, and renamed when complete. A damaged one is written anew. Files that were
    not used longest are removed when all together exceed ``limit_bytes``.

    Args:
        images: where pictures come from.
        max_side: the longer side in pixels, at most (detection); None: not limited.
        min_side: the shorter side in pixels, at most (whole images); None: not limited.
        sizes: int64 [n, 2], (height, width) of each decoded picture; None: ``images`` is asked.
        memory_bytes, limit_bytes: see above.
        show_progress: a bar on stderr while decoding, if that is a terminal.
    """

    def __init__(
        self,
        images: ImageFiles,
        max_side: int | None = None,
        *,
        min_side: int | None = None,
        sizes: NDArray[np.int64] | None = None,
        memory_bytes: int = 128 * 2**20,
        limit_bytes: int = 8 * 2**30,
        show_progress: bool = True,
    ) -> None:
        for name, side in (("max_side", max_side), ("min_side", min_side)):
            if side is not None and side < 1:
                raise ValueError(f"{name} must be at least 1, got {side}")
        if max_side is not None and min_side is not None:
            raise ValueError(f"max_side {max_side} and min_side {min_side} cannot both be given")
        self.images = images
        self.max_side = max_side
        self.min_side = min_side
        self._sizes = self._known(sizes)
        self.shapes = [self._target(size) for size in self._sizes]
        self._one_shape = len(set(self.shapes)) == 1
        self._offsets = np.cumsum([0, *(height * width * 3 for height, width in self.shapes)])
        self.total_bytes = int(self._offsets[-1])
        self._limit = limit_bytes
        self._show_progress = show_progress
        self._pixels: NDArray[np.uint8] | None = None
        self._file: Path | None = None
        self.note = self._choose(memory_bytes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB, read-only.

        Raises:
            UserError: if the file changed or vanished since the audit.
        """
        pixels = self._kept()
        return self._decode(index) if pixels is None else self._view(pixels, index)

    @property
    def keeps_pictures(self) -> bool:
        """False where each picture is decoded again when it is asked for."""
        return self._pixels is not None or self._file is not None

    @property
    def dense(self) -> NDArray[np.uint8] | None:
        """uint8 [n, H, W, 3], read-only; None where shapes differ or pictures are decoded each time."""
        pixels = self._kept() if self._one_shape else None
        return None if pixels is None else pixels.reshape(len(self), *self.shapes[0], 3).view(np.ndarray)

    def __getstate__(self) -> dict[str, object]:
        """Without a mapped file's pixels: they would be copied to each worker."""
        return {**self.__dict__, "_pixels": None} if self._file is not None else self.__dict__

    def _kept(self) -> NDArray[np.uint8] | None:
        if self._pixels is None and self._file is not None:  # in a worker that was not forked
            self._pixels = self._map(self._file)
        return self._pixels

    def _known(self, sizes: NDArray[np.int64] | None) -> list[tuple[int, int]]:
        if sizes is not None:
            return [(height, width) for height, width in sizes.tolist()]
        found = (self.images.size(index) or self.images.read(index).shape for index in range(len(self)))
        return [(size[0], size[1]) for size in found]

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.min_side is not None:
            return size if min(size) <= self.min_side else shorter_to(size, self.min_side)
        return size if self.max_side is None or max(size) <= self.max_side else longest_side(size, self.max_side)

    def _choose(self, memory_bytes: int) -> str:
        amount = f"{len(self)} decoded picture{'s' * (len(self) != 1)} ({_megabytes(self.total_bytes)})"
        if self.total_bytes <= memory_bytes:
            pixels = np.empty(self.total_bytes, dtype=np.uint8)
            self._fill(pixels)
            pixels.setflags(write=False)
            self._pixels = pixels
            return f"{amount} are kept in memory."
        if self.total_bytes > self._limit:
            return f"{amount} exceed the cache limit of {_megabytes(self._limit)}: each is decoded when needed."
        folder = cache_folder() / "images"
        try:
            return self._open_or_write(folder, amount)
        except OSError as error:
            self._pixels, self._file = None, None
            return f"{amount} cannot be kept in {folder} ({error.strerror or error}): each is decoded when needed."

    def _open_or_write(self, folder: Path, amount: str) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self._key()}.bin"
        with FileLock(str(file.with_suffix(".lock"))):
            self._pixels = self._map(file)
            if self._pixels is None:
                free = shutil.disk_usage(folder).free
                if self.total_bytes > free / 2:
                    return (
                        f"{amount} are more than half of the {_megabytes(free)} that are free in {folder}: "
                        "each is decoded when needed."
                    )
                self._write(file)
                self._pixels = self._map(file)
        if self._pixels is None:
            raise OSError("what was written cannot be read back")
        self._file = file
        os.utime(file)
        self._prune(folder)
        return f"{amount} are kept in {file}."

    def _key(self) -> str:
        stamps = [
            (os.path.abspath(self.images.name(index)), *self.images.stamp(index), shape)
            for index, shape in enumerate(self.shapes)
        ]
        side = self.max_side if self.min_side is None else f"shorter {self.min_side}"
        return hashlib.sha256(json.dumps([side, stamps]).encode()).hexdigest()[:32]

    def _write(self, file: Path) -> None:
        partial = file.with_suffix(".partial")
        try:
            with partial.open("wb") as handle:
                handle.truncate(self.total_bytes)
                if hasattr(os, "posix_fallocate"):  # a disk that gets full later would end the process by SIGBUS
                    os.posix_fallocate(handle.fileno(), 0, self.total_bytes)
            pixels = np.memmap(partial, dtype=np.uint8, mode="r+", shape=(self.total_bytes,))
            self._fill(pixels)
            pixels.flush()
            with partial.open("ab") as handle:
                handle.write(self._footer(pixels))
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    def _map(self, file: Path) -> NDArray[np.uint8] | None:
        """The file's pixels, read-only; None if it is missing, cut off or damaged."""
        footer = len(_MAGIC) + 4
        if not file.is_file() or file.stat().st_size != self.total_bytes + footer:
            return None
        content = np.memmap(file, dtype=np.uint8, mode="r")
        pixels = content[: self.total_bytes]
        return pixels if content[self.total_bytes :].tobytes() == self._footer(pixels) else None

    def _footer(self, pixels: NDArray[np.uint8]) -> bytes:
        """Magic and a checksum over the middle row of up to 512 pictures: reading everything would take too long."""
        checksum = 0
        for index in range(0, len(self), max(1, len(self) // _SAMPLED)):
            image = self._view(pixels, index)
            checksum = zlib.crc32(image[len(image) // 2].tobytes(), checksum)
        return _MAGIC + checksum.to_bytes(4, "little")

    def _view(self, pixels: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        start, end = self._offsets[index], self._offsets[index + 1]
        return pixels[start:end].reshape(*self.shapes[index], 3).view(np.ndarray)

    def _fill(self, pixels: NDArray[np.uint8]) -> None:
        def decode(index: int) -> None:
            self._view(pixels, index)[...] = self._decode(index)

        console = Console(stderr=True)
        # Decoders silence warnings of their own, which is not safe in threads: restore the filters at the end.
        with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            done = pool.map(decode, range(len(self)))
            bar = track(
                done,
                description="Decoding pictures",
                total=len(self),
                console=console,
                transient=True,
                disable=not (self._show_progress and console.is_terminal),
            )
            for _ in bar:
                pass

    def _decode(self, index: int) -> NDArray[np.uint8]:
        image = self.images.read(index)
        if image.shape[:2] != self._sizes[index]:
            height, width = self._sizes[index]
            raise UserError(
                f"{self.images.name(index)} is {image.shape[1]}x{image.shape[0]} now, but was {width}x{height} when "
                "the data was checked: do not change pictures during a run."
            )
        if self.min_side is not None:
            return image if image.shape[:2] == self.shapes[index] else resize_shorter(image, self.min_side)
        return resize(image, _NO_BOXES, *self.shapes[index])[0]

    def _prune(self, folder: Path) -> None:
        """Remove the files that were not used longest, until the rest keeps within the limit."""
        used = 0
        for file in sorted(folder.glob("*.bin"), key=lambda f: f.stat().st_mtime, reverse=True):
            used += file.stat().st_size
            if used > self._limit and file != self._file:
                file.unlink(missing_ok=True)
                file.with_suffix(".lock").unlink(missing_ok=True)


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.0f} MB" if count >= 10 * 2**20 else f"{count / 2**20:.1f} MB"
