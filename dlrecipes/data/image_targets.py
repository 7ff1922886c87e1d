"""Which columns of a table are the target, and what they say: a class, several labels, or numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.errors import UserError

__all__ = ["KINDS", "Column", "Targets", "choose_target", "column_of_text", "find_column", "read_targets"]

KINDS = ("auto", "classification", "multilabel", "regression")

_TARGET_NAMES = (
    *("label", "labels", "class", "classes", "class_name", "classname", "class_id", "label_name", "category"),
    *("categories", "target", "targets", "y", "fine_label", "tags", "species", "breed", "diagnosis"),
)
_NO_TARGETS = ("", "unnamed: 0", "id", "index", "idx", "width", "height", "url", "md5", "fold", "license", "source")
_SEPARATORS = re.compile(r"[;|]")
_MANY = 100  # different integers in one column, from which on the note asks whether they are numbers


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
        return self.kind == "text" and any(_SEPARATORS.search(v) for v in self.values)


@dataclass(frozen=True, eq=False)
class Targets:
    """What the target columns say.

    Attributes:
        task: ``"classification"``, ``"multilabel"`` or ``"regression"``.
        values: as `ImageTable.targets`.
        classes, target_names, notes: as in `ImageSource`.
    """

    task: str
    values: NDArray[Any]
    classes: tuple[str, ...]
    target_names: tuple[str, ...]
    notes: tuple[str, ...]


def column_of_text(cells: Sequence[str]) -> Column:
    """Integers where all filled cells are, otherwise numbers where all are, otherwise text.

    >>> [column_of_text(cells).kind for cells in (["1", "02"], ["1", "2.5", "nan"], ["1", "cat"])]
    ['integer', 'number', 'text']
    """
    stripped = [cell.strip() for cell in cells]
    empty = np.array([not cell for cell in stripped], dtype=np.bool_)
    filled = np.array([cell or "0" for cell in stripped], dtype=np.object_)
    if not empty.all():
        try:
            return Column(filled.astype(np.int64), empty)
        except (ValueError, OverflowError):
            pass
        try:
            return Column(filled.astype(np.float64), empty)
        except ValueError:
            pass
    return Column(np.array(stripped, dtype=np.object_), empty)


def find_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The column whose name, without regard to case and separators, comes first in ``wanted``.

    >>> find_column(["ID", "Image Path", "y"], ["image", "image_path"])
    'Image Path'
    """
    plain = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in reversed(names)}
    return next((plain[w] for w in wanted if w in plain), None)


def choose_target(columns: Mapping[str, Column], target: str | Sequence[str] | None, file: str) -> tuple[str, ...]:
    """Names of the target columns.

    Args:
        columns: all columns but those of image, split and weight.
        target: what the user named; None: ``label`` and the like, otherwise the only column left, otherwise all that
            are left if they are 0/1 flags throughout or real numbers throughout.
        file: for messages.

    Raises:
        UserError: if a named column does not exist, or none or several could be meant.
    """
    if target is not None:
        wanted = (target,) if isinstance(target, str) else tuple(target)
        for name in wanted:
            if name not in columns:
                raise UserError(f"{file} has no column {name!r} for the target, only {_listed(columns)}: name one.")
        return wanted
    named = find_column(list(columns), _TARGET_NAMES)
    if named is not None:
        return (named,)
    left = [name for name in columns if name.strip().lower() not in _NO_TARGETS]
    if not left:
        raise UserError(f"{file} has no column with labels beside its images; add one named 'label'.")
    same_kind = all(columns[n].is_flag for n in left) or all(columns[n].kind == "number" for n in left)
    if len(left) == 1 or same_kind:
        return tuple(left)
    raise UserError(
        f"{file}: the target could be any of the columns {_listed(left)}; choose with --data.target (a name, or a list "
        "of names)."
    )


def read_targets(
    columns: Mapping[str, Column], names: Sequence[str], kind: str, file: str, where: Callable[[int], str]
) -> Targets:
    """Interpret the target columns.

    Without a ``kind``: text or integers in one column are classes; lists, cells like ``cat;dog``, and several columns
    of 0 and 1 are several labels; other numbers are numbers.

    Args:
        columns: by name.
        names: of the target columns, from `choose_target`.
        kind: one of ``KINDS``.
        file: for messages.
        where: what to call a row, such as ``"labels.csv, line 7"``.

    Raises:
        UserError: if the columns cannot be read as ``kind``, or an entry is empty.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    chosen = {name: columns[name] for name in names}
    first = chosen[names[0]]
    task = _task(chosen) if kind == "auto" else kind
    if not (task == "multilabel" and len(names) == 1 and first.kind in ("text", "list")):
        _refuse_empty(chosen, where)
    if task == "regression":
        return _numbers(chosen, file)
    if task == "multilabel":
        return _several_labels(chosen, file)
    return _one_label(chosen, file, where, asked=kind != "auto")


def _task(chosen: Mapping[str, Column]) -> str:
    columns = list(chosen.values())
    if len(columns) > 1 and all(c.is_flag for c in columns):
        return "multilabel"
    if len(columns) == 1 and (columns[0].kind == "list" or columns[0].is_separated):
        return "multilabel"
    if len(columns) > 1 or columns[0].kind == "number":
        return "regression"
    return "classification"


def _refuse_empty(chosen: Mapping[str, Column], where: Callable[[int], str]) -> None:
    for name, column in chosen.items():
        if column.empty.any():
            count = int(column.empty.sum())
            more = f" ({count - 1} more like it)" if count > 1 else ""
            raise UserError(
                f"{where(int(column.empty.argmax()))}: the column {name!r} is empty{more}; complete or remove the row."
            )


def _numbers(chosen: Mapping[str, Column], file: str) -> Targets:
    for name, column in chosen.items():
        if column.kind not in ("integer", "number") or column.names:
            example = "class names" if column.names else repr(column.values[0])
            raise UserError(f"{file}: the column {name!r} holds no numbers but {example}; regression needs numbers.")
    return Targets(
        "regression", _stacked(chosen), (), tuple(chosen), (f"{_columns(chosen)} read as numbers: regression",)
    )


def _several_labels(chosen: Mapping[str, Column], file: str) -> Targets:
    (name, column), *others = chosen.items()
    if not others and column.kind in ("text", "list"):
        rows = [_labels_of_cell(cell) for cell in column.values]
        distinct = range(len(column.names)) if column.names else sorted({v for row in rows for v in row}, key=_natural)
        position = {label: i for i, label in enumerate(distinct)}
        classes = column.names or tuple(str(label) for label in distinct)
        values = np.zeros((len(rows), len(classes)), dtype=np.float32)
        for row, labels in zip(values, rows, strict=True):
            unknown = [label for label in labels if label not in position]
            if unknown:
                raise UserError(f"{file}: the column {name!r} holds {unknown[0]!r}, which has no class name.")
            row[[position[label] for label in labels]] = 1.0
    else:
        wrong = next((name for name, column in chosen.items() if not column.is_flag), None)
        if wrong is not None:
            raise UserError(f"{file}: the column {wrong!r} holds more than 0 and 1; several labels need 0 and 1.")
        values, classes = _stacked(chosen), tuple(chosen)
    notes = [f"{_columns(chosen)} read as any number of {len(classes)} labels for an image: multilabel"]
    if len(classes) > 1 and len(values) and (values.sum(axis=1) == 1).all():
        notes.append("every image has exactly one label: --data.kind classification treats them as a choice of one")
    return Targets("multilabel", values, classes, (), tuple(notes))


def _one_label(chosen: Mapping[str, Column], file: str, where: Callable[[int], str], *, asked: bool) -> Targets:
    (name, column), *others = chosen.items()
    if others:
        flags = _stacked(chosen) if all(c.is_flag for c in chosen.values()) else np.zeros((1, 1), np.float32)
        unclear = flags.sum(axis=1) != 1
        if unclear.any():
            raise UserError(
                f"{where(int(unclear.argmax()))}: {_columns(chosen)} must hold a single 1 and otherwise 0 to be "
                "read as one class; name one column with --data.target, or give --data.kind multilabel or regression."
            )
        note = f"{_columns(chosen)} read as one of {len(chosen)} classes: classification"
        return Targets("classification", flags.argmax(axis=1).astype(np.int64), tuple(chosen), (), (note,))
    if column.kind == "list":
        raise UserError(f"{file}: the column {name!r} holds lists of labels; give --data.kind multilabel.")
    if column.kind == "number" and (column.values != np.round(column.values.astype(np.float64))).any():
        raise UserError(f"{file}: the column {name!r} holds numbers with decimals; classes need text or integers.")
    if column.names:
        wrong = (column.values < 0) | (column.values >= len(column.names))
        if wrong.any():
            row = int(wrong.argmax())
            raise UserError(
                f"{where(row)}: the label {column.values[row]} in {name!r} has no class name, the table names "
                f"{len(column.names)} classes (from 0); remove the row, or the split if its labels are hidden."
            )
        note = f"{_columns(chosen)} read as one of {len(column.names)} classes: classification"
        return Targets("classification", column.values.astype(np.int64), column.names, (), (note,))
    integers = column.kind != "text"
    distinct, labels = np.unique(column.values.astype(np.int64 if integers else np.str_), return_inverse=True)
    note = f"{_columns(chosen)} read as one of {len(distinct)} classes: classification"
    if not asked and integers and len(distinct) >= _MANY:
        note += "; if these are numbers to predict, give --data.kind regression"
    classes = tuple(str(value) for value in distinct.tolist())
    return Targets("classification", labels.astype(np.int64), classes, (), (note,))


def _stacked(chosen: Mapping[str, Column]) -> NDArray[np.float32]:
    return np.stack([column.values.astype(np.float32) for column in chosen.values()], axis=1)


def _labels_of_cell(cell: object) -> tuple[int | str, ...]:
    if isinstance(cell, tuple):
        return cell
    return tuple(label for part in _SEPARATORS.split(str(cell)) if (label := part.strip()))


def _natural(label: int | str) -> tuple[bool, int, str]:
    """Numbers by size and before text."""
    return (False, int(label), "") if str(label).isdecimal() else (True, 0, str(label))


def _columns(chosen: Mapping[str, Column]) -> str:
    return f"column {next(iter(chosen))!r}" if len(chosen) == 1 else f"columns {_listed(chosen)}"


def _listed(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    listed = ", ".join(repr(n) for n in names[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")
