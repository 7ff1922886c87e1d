"""Images whose encoded bytes lie in Parquet files, as Hugging Face stores them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.image_files import file_stamp
from dlrecipes.data.loading.decode import DecodedImage, decode, image_size, upright
from dlrecipes.errors import UserError

__all__ = ["ParquetImages", "open_parquet"]

_BUDGET = 256 * 2**20  # bytes of encoded images that a process keeps


def open_parquet(path: str | Path) -> Any:
    """``pyarrow.parquet.ParquetFile``, memory-mapped.

    Raises:
        UserError: if pyarrow is not installed, or the file is missing or damaged.
    """
    try:
        parquet, arrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    except ImportError:
        raise UserError(f'{path}: reading Parquet needs pyarrow; pip install "dlrecipes[parquet]".') from None
    try:
        return parquet.ParquetFile(str(path), memory_map=True)
    except (OSError, arrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}); download or export it again.") from error


class ParquetImages:
    """Encoded images in a binary column, or in the field ``bytes`` of a struct column, of one or more Parquet files.

    A Parquet file is read by groups of rows (100 in files from Hugging Face). The groups read last are kept, up to
    256 MB a process, so that reading in order costs each group once and small data once in all. Each process opens the
    files itself, when it first reads.

    Args:
        files: Parquet files whose rows follow one another.
        column: name of the column.

    Raises:
        UserError: as `open_parquet`, or if there is no such column.
    """

    def __init__(self, files: Sequence[str | Path], column: str) -> None:
        self.files = [str(file) for file in files]
        self.column = column
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        self._leaf = ""
        for number, file in enumerate(self.files):
            opened = open_parquet(file)
            names = [opened.schema.column(k).path for k in range(len(opened.schema.names))]
            leaf = next((n for n in (f"{column}.bytes", column) if n in names), None)
            if leaf is None:
                raise UserError(f"{file} has no column {column!r} of image bytes.")
            self._leaf = leaf
            groups += [(number, k, opened.metadata.row_group(k).num_rows) for k in range(opened.num_row_groups)]
        table = np.array(groups, dtype=np.int64).reshape(-1, 3)
        self._file, self._group = table[:, 0], table[:, 1]
        self._start = np.concatenate([[0], np.cumsum(table[:, 2])]).astype(np.int64)
        # Row of its own file that a group begins with, for names.
        first = np.concatenate([[0], np.flatnonzero(np.diff(self._file)) + 1]) if len(table) else np.zeros(0, np.int64)
        base = self._start[:-1][first][self._file] if len(table) else first
        self._row_in_file = self._start[:-1] - base
        self._reset()

    def __len__(self) -> int:
        return int(self._start[-1])

    def name(self, index: int) -> str:
        """``FILE.parquet#ROW``, counted from 0 in its file."""
        group, offset = self._locate(index)
        return f"{self.files[self._file[group]]}#{self._row_in_file[group] + offset}"

    def stamp(self, index: int) -> tuple[int, int]:
        return file_stamp(self.files[self._file[self._locate(index)[0]]])

    def encoded(self, index: int) -> bytes:
        """The file's content as it was stored.

        Raises:
            UserError: naming the row, if there is none, or the Parquet file is damaged there.
        """
        group, offset = self._locate(index)
        cell = self._cells(group)[offset]
        if not cell.is_valid:
            raise UserError(f"{self.name(index)} cannot be decoded as an image (its bytes are missing).")
        return bytes(cell.as_buffer())

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.decode(index).pixels

    def decode(self, index: int) -> DecodedImage:
        return upright(decode(self.encoded(index), self.name(index)))

    def size(self, index: int) -> tuple[int, int] | None:
        try:
            found = image_size(self.encoded(index), turned=True)
        except UserError:
            return None
        return None if found is None else (found[1], found[0])

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_opened", "_kept", "_pid")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._opened: dict[int, Any] = {}
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        group = int(np.searchsorted(self._start, index, side="right")) - 1
        return group, index - int(self._start[group])

    def _cells(self, group: int) -> Any:
        """Binary cells of a row group."""
        if self._pid != os.getpid():  # forked: another thread may have held the lock
            self._reset()
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            number = int(self._file[group])
            if number not in self._opened:
                self._opened[number] = open_parquet(self.files[number])
            file = self.files[number]
            try:
                # No threads of Arrow's own: the caller has some, and they do not survive a fork.
                table = self._opened[number].read_row_group(
                    int(self._group[group]), columns=[self._leaf], use_threads=False
                )
            except (OSError, ValueError) as error:
                raise UserError(f"{file} cannot be read as Parquet ({error}); download or export it again.") from error
            cells = table.column(0)
            if self._leaf != self.column:
                cells = import_module("pyarrow.compute").struct_field(cells, "bytes")
            self._kept[group] = cells
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _BUDGET:
                self._kept.popitem(last=False)
            return cells
