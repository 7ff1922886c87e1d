"""Which columns of a table are the target, and what they say: a class, several labels, or numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.columns import SEPARATOR, Column, find_column
from dlrecipes.errors import UserError

__all__ = ["KINDS", "NO_TARGETS", "Targets", "choose_target", "read_targets"]

KINDS = ("auto", "classification", "multilabel", "regression")

_TARGET_NAMES = (
    *("label", "labels", "class", "classes", "class_name", "classname", "class_id", "label_name", "category"),
    *("categories", "target", "targets", "y", "fine_label", "tags", "species", "breed", "diagnosis"),
)
NO_TARGETS = ("", "unnamed: 0", "id", "index", "idx", "width", "height", "url", "md5", "fold", "license", "source")
_SEPARATORS = (SEPARATOR, re.compile(","), re.compile(r"\s"))  # where the user says that there are several
_MANY, _FEW_EACH = 100, 20  # different integers, and images of each, that make the note ask whether they are numbers
_DATE = re.compile(r"\d{4}[-/.]\d\d?[-/.]\d\d?(?!\d)|\d\d?[-/.]\d\d?[-/.]\d{4}(?!\d)")  # 2024-01-31 ..., 31.1.2024 ...
_ODD_SHARE = 0.1  # of entries that may be no numbers in a column that is meant to hold numbers


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


def choose_target(columns: Mapping[str, Column], target: str | Sequence[str] | None, file: str) -> tuple[str, ...]:
    """Names of the target columns.

    Args:
        columns: all columns but those of image, split and weight.
        target: what the user named; None: ``label`` and the like (``y`` only without an ``x``, which would make it a
            coordinate), otherwise the only column left, otherwise all that are left if they are 0/1 flags throughout or
            real numbers throughout.
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
    if named is not None and named.strip().lower() == "y" and find_column(list(columns), ("x",)) is not None:
        named = find_column([name for name in columns if name != named], _TARGET_NAMES)
    if named is not None:
        return (named,)
    left = [name for name in columns if name.strip().lower() not in NO_TARGETS]
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
        return _numbers(chosen, file, asked=kind != "auto")
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


def _numbers(chosen: Mapping[str, Column], file: str, *, asked: bool) -> Targets:
    for name, column in chosen.items():
        if column.kind not in ("integer", "number") or column.names:
            example = "class names" if column.names else repr(column.values[0])
            raise UserError(f"{file}: the column {name!r} holds no numbers but {example}; regression needs numbers.")
    note = f"{_columns(chosen)} read as numbers: regression"
    if not asked and len(chosen) == 1 and _may_be_classes(next(iter(chosen.values())).values):
        note += "; if these are classes, give --data.kind classification"
    return Targets("regression", _stacked(chosen), (), tuple(chosen), (note,))


def _may_be_classes(values: NDArray[Any]) -> bool:
    """A few whole numbers: pandas writes labels as 1.0 once one of them was missing."""
    distinct = np.unique(values)
    return bool((distinct == np.round(distinct)).all()) and not _may_be_numbers(len(distinct), len(values))


def _may_be_numbers(distinct: int, count: int) -> bool:
    return distinct >= _MANY or (distinct > 10 and count < _FEW_EACH * distinct)


def _several_labels(chosen: Mapping[str, Column], file: str) -> Targets:
    (name, column), *others = chosen.items()
    if not others and column.kind in ("text", "list"):
        filled = [cell for cell in column.values if isinstance(cell, str)]
        separator = next((s for s in _SEPARATORS if any(s.search(cell) for cell in filled)), SEPARATOR)
        rows = [_labels_of_cell(cell, separator) for cell in column.values]
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
    if not asked and not integers:
        _refuse_odd_entries(name, column, where)
        _refuse_dates(name, column, file)
        _refuse_nan(name, column, where)
    distinct, labels = np.unique(column.values.astype(np.int64 if integers else np.str_), return_inverse=True)
    note = f"{_columns(chosen)} read as one of {len(distinct)} classes: classification"
    if not asked and integers and _may_be_numbers(len(distinct), len(labels)):
        note += "; if these are numbers to predict, give --data.kind regression"
    if not asked and not integers and _is_made_of_fewer(distinct.tolist()):
        note += "; if an entry lists several labels, give --data.kind multilabel"
    classes = tuple(str(value) for value in distinct.tolist())
    return Targets("classification", labels.astype(np.int64), classes, (), (note,))


def _refuse_odd_entries(name: str, column: Column, where: Callable[[int], str]) -> None:
    """A few entries such as ``n/a`` among decimal numbers are mistakes, and would make each number a class."""
    numbers = np.array([_is_number(cell) for cell in column.values], dtype=np.bool_)
    odd = np.flatnonzero(~numbers)
    if 0 < len(odd) <= _ODD_SHARE * len(numbers) and any("." in cell for cell in column.values[numbers]):
        row = int(odd[0])
        more = f" ({len(odd) - 1} more like it)" if len(odd) > 1 else ""
        raise UserError(
            f"{where(row)}: {column.values[row]!r} in the column {name!r} is no number as the others are{more}; "
            "correct or remove the row, or give --data.kind classification."
        )


def _refuse_dates(name: str, column: Column, file: str) -> None:
    """Days and times are no classes to anybody who did not say so."""
    if all(_DATE.match(str(cell).strip()) for cell in column.values):
        raise UserError(
            f"{file}: the column {name!r} holds dates, such as {column.values[0]}: choose another with --data.target, "
            "or give --data.kind classification if each date is a class."
        )


def _refuse_nan(name: str, column: Column, where: Callable[[int], str]) -> None:
    """``nan`` is what pandas writes for a missing label; a class of that name would be learnt."""
    missing = np.flatnonzero([str(cell).strip().lower() == "nan" for cell in column.values])
    if len(missing):
        row = int(missing[0])
        more = f" ({len(missing) - 1} more like it)" if len(missing) > 1 else ""
        raise UserError(
            f"{where(row)}: {str(column.values[row]).strip()!r} in the column {name!r} stands for a missing label{more}"
            "; complete or remove the row, or give --data.kind classification if it is a class."
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_made_of_fewer(classes: Sequence[str]) -> bool:
    """Whether names are put together of fewer words or parts, as ``cat dog``, ``cat``, ``dog bird``, ``bird`` are."""
    parts = [{p for p in re.split(r"[,\s]+", name) if p} for name in classes]
    return len(set().union(*parts)) < len(classes)


def _stacked(chosen: Mapping[str, Column]) -> NDArray[np.float32]:
    return np.stack([column.values.astype(np.float32) for column in chosen.values()], axis=1)


def _labels_of_cell(cell: object, separator: re.Pattern[str]) -> tuple[int | str, ...]:
    if isinstance(cell, tuple):
        return cell
    return tuple(label for part in separator.split(str(cell)) if (label := part.strip()))


def _natural(label: int | str) -> tuple[bool, int, str]:
    """Numbers by size and before text."""
    return (False, int(label), "") if str(label).isdecimal() else (True, 0, str(label))


def _columns(chosen: Mapping[str, Column]) -> str:
    return f"column {next(iter(chosen))!r}" if len(chosen) == 1 else f"columns {_listed(chosen)}"


def _listed(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    listed = ", ".join(repr(n) for n in names[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")
