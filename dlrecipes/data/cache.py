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

from dlrecipes.data.geometry import longest_side, resize
from dlrecipes.data.images import read_image
from dlrecipes.data.probe import cache_folder
from dlrecipes.data.records import DetectionRecord
from dlrecipes.errors import UserError

__all__ = ["ImageCache"]

_MAGIC = b"DLRIMG1\n"
_NO_BOXES = np.zeros((0, 4))
_SAMPLED = 512  # pictures of which a row goes into the checksum


class ImageCache:
    """Pictures of a list of records, decoded once, scaled down so that their longer side is at most ``max_side``.

    By size: up to ``memory_bytes`` they stay in memory; above, in a file below ``$DLRECIPES_CACHE`` (otherwise
    ``~/.cache/dlrecipes``) that all workers and ranks map and later runs find again; above ``limit_bytes`` or half of
    the disk's free space they are decoded each time. ``note`` says which.

    The file's name is a hash of each picture's path, size and time of change and of ``max_side``; it is written under a
    lock, by one process while others wait, and renamed when complete. A damaged one is written anew. Files that were
    not used longest are removed when all together exceed ``limit_bytes``.

    Args:
        records: with the sizes of the image files (as after the audit).
        max_side: in pixels; None: full resolution.
        memory_bytes, limit_bytes: see above.
        show_progress: a bar on stderr while decoding, if that is a terminal.
    """

    def __init__(
        self,
        records: Sequence[DetectionRecord],
        max_side: int | None,
        *,
        memory_bytes: int = 128 * 2**20,
        limit_bytes: int = 8 * 2**30,
        show_progress: bool = True,
    ) -> None:
        if max_side is not None and max_side < 1:
            raise ValueError(f"max_side must be at least 1, got {max_side}")
        self.max_side = max_side
        self.paths = [record.path for record in records]
        self._sizes = [(record.height, record.width) for record in records]
        self.shapes = [self._target(size) for size in self._sizes]
        self._offsets = np.cumsum([0, *(height * width * 3 for height, width in self.shapes)])
        self.total_bytes = int(self._offsets[-1])
        self._limit = limit_bytes
        self._show_progress = show_progress
        self._pixels: NDArray[np.uint8] | None = None
        self._file: Path | None = None
        self.note = self._choose(memory_bytes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB, read-only.

        Raises:
            UserError: if the file changed or vanished since the audit.
        """
        if self._pixels is None and self._file is not None:  # in a worker that was not forked
            self._pixels = self._map(self._file)
        if self._pixels is None:
            return self._decode(index)
        return self._view(self._pixels, index)

    def __getstate__(self) -> dict[str, object]:
        """Without a mapped file's pixels: they would be copied to each worker."""
        return {**self.__dict__, "_pixels": None} if self._file is not None else self.__dict__

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        return size if self.max_side is None or max(size) <= self.max_side else longest_side(size, self.max_side)

    def _choose(self, memory_bytes: int) -> str:
        amount = f"{len(self)} decoded pictures ({self.total_bytes / 2**20:.0f} MB)"
        if self.total_bytes <= memory_bytes:
            pixels = np.empty(self.total_bytes, dtype=np.uint8)
            self._fill(pixels)
            pixels.setflags(write=False)
            self._pixels = pixels
            return f"{amount} are kept in memory."
        if self.total_bytes > self._limit:
            return f"{amount} exceed the cache limit of {self._limit / 2**20:.0f} MB: each is decoded when needed."
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
                        f"{amount} are more than half of the {free / 2**20:.0f} MB that are free in {folder}: "
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
        stamps = []
        for path, shape in zip(self.paths, self.shapes, strict=True):
            status = os.stat(path)
            stamps.append((os.path.abspath(path), status.st_size, status.st_mtime_ns, shape))
        return hashlib.sha256(json.dumps([self.max_side, stamps]).encode()).hexdigest()[:32]

    def _write(self, file: Path) -> None:
        partial = file.with_suffix(".partial")
        try:
            pixels = np.memmap(partial, dtype=np.uint8, mode="w+", shape=(self.total_bytes,))
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
        image = read_image(self.paths[index])
        if image.shape[:2] != self._sizes[index]:
            height, width = self._sizes[index]
            raise UserError(
                f"{self.paths[index]} is {image.shape[1]}x{image.shape[0]} now, but was {width}x{height} when the data "
                "was checked: do not change pictures during a run."
            )
        return resize(image, _NO_BOXES, *self.shapes[index])[0]

    def _prune(self, folder: Path) -> None:
        """Remove the files that were not used longest, until the rest keeps within the limit."""
        used = 0
        for file in sorted(folder.glob("*.bin"), key=lambda f: f.stat().st_mtime, reverse=True):
            used += file.stat().st_size
            if used > self._limit and file != self._file:
                file.unlink(missing_ok=True)
                file.with_suffix(".lock").unlink(missing_ok=True)
