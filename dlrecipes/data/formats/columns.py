"""A column of a table, whatever it was read from: integers, numbers, text, or lists of labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DECIMAL_COMMA", "SEPARATOR", "Column", "column_of_text", "find_column", "with_point"]

SEPARATOR = re.compile(r"[;|]")
"""What stands between several labels in one cell."""

DECIMAL_COMMA = re.compile(r"[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+")
"""A number as spreadsheets of many countries write it: 1.234,5."""

_WHOLE = re.compile(r"[-+]?\d+")


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    Attributes:
        values: int64, float64, or object (``str``, or ``tuple`` of labels) [n].
        empty: bool [n], where nothing was written.
        names: class names of integers, where the table brings them.
    """

    values: NDArray[Any]
    empty: NDArray[np.bool_]
    names: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``"integer"``, ``"number"``, ``"text"`` or ``"list"``."""
        if self.values.dtype != np.object_:
            return "integer" if self.values.dtype == np.int64 else "number"
        return "list" if any(isinstance(v, tuple) for v in self.values) else "text"

    @property
    def is_flag(self) -> bool:
        """Whether it holds nothing but 0 and 1."""
        return self.kind in ("integer", "number") and not self.empty.any() and bool(np.isin(self.values, (0, 1)).all())

    @property
    def is_separated(self) -> bool:
        """Whether it holds several labels in one cell: ``cat;dog`` or ``cat|dog``."""
        return self.kind == "text" and any(SEPARATOR.search(v) for v in self.values)


def column_of_text(cells: Sequence[str], *, labels: bool = True) -> Column:
    """Integers where all filled cells are, otherwise numbers where all are, otherwise lists, otherwise text.

    Args:
        cells: as they are written. With an underscore they are text: ``0_10`` is a range of ages, though Python reads
            10.
        labels: integers that are written in two ways, as 01 and 1, stay text, as two labels, and so do codes of one
            length with leading zeros, as 001 and 102.

    >>> [column_of_text(cells).kind for cells in (["1", "02"], ["1", "2.5", "nan"], ["1", "cat"], ["['a', 'b']"])]
    ['integer', 'number', 'text', 'list']
    """
    stripped = [cell.strip() for cell in cells]
    empty = np.array([not cell for cell in stripped], dtype=np.bool_)
    filled = np.array([cell or "0" for cell in stripped], dtype=np.object_)
    written = {cell for cell in stripped if cell}
    if written and not any("_" in cell for cell in written):
        if all(map(_WHOLE.fullmatch, written)):
            equal = len(set(map(len, written))) == 1 and all(map(str.isdecimal, written))
            codes = equal and any(len(cell) > 1 and cell.startswith("0") for cell in written)
            if labels and (codes or len(set(map(int, written))) < len(written)):
                return Column(_lists(stripped), empty)
            with suppress(OverflowError):
                return Column(filled.astype(np.int64), empty)
        try:
            return Column(filled.astype(np.float64), empty)
        except ValueError:
            pass
    return Column(_lists(stripped), empty)


def _lists(cells: Sequence[str]) -> NDArray[np.object_]:
    """Tuples of labels where each filled cell is a list as Python or JSON writes it, otherwise the text."""
    values = np.empty(len(cells), dtype=np.object_)
    values[:] = list(cells)
    if not any(cell.startswith("[") for cell in cells):
        return values
    lists = []
    try:
        for cell in cells:
            found = ast.literal_eval(cell or "[]") if cell[:1] in ("[", "") else None
            if not isinstance(found, list) or not all(isinstance(label, int | str) for label in found):
                raise ValueError(f"{cell!r} is no list of labels")
            lists.append(tuple(found))
    except (ValueError, SyntaxError):
        return values
    for row, labels in enumerate(lists):
        values[row] = labels
    return values


def with_point(cell: str) -> str:
    """A number that has a decimal comma as Python reads it.

    >>> with_point("1.234,5"), with_point("1.234")
    ('1234.5', '1234')
    """
    return cell.replace(".", "").replace(",", ".")


def find_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The column whose name, without regard to case and separators, comes first in ``wanted``.

    >>> find_column(["ID", "Image Path", "y"], ["image", "image_path"])
    'Image Path'
    """
    plain = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in reversed(names)}
    return next((plain[w] for w in wanted if w in plain), None)
